# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog in a browser: Datasette on a copy of it (pitr/jobs/serve/catalog_site/snapshot.py).

Datasette and its web server are an extra: nothing else of pitr needs them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from pitr.errors import ProgramMissing
from pitr.jobs.serve.catalog_site.metadata import DATABASE, metadata
from pitr.jobs.serve.catalog_site.snapshot import Snapshot
from pitr.system.sockets import authority, is_loopback
from pitr.text import printable

_SETTINGS = {
    # What is shown is to be what there is: nothing may be kept by the browser.
    "default_cache_ttl": 0,
    "sql_time_limit_ms": 5000,
    "facet_time_limit_ms": 1000,
    "allow_download": False,
}
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def serve(
    repository: Path,
    listener: socket.socket,
    *,
    ready: Callable[[str], None],
    notify: Callable[[str], None],
) -> None:
    """Serve the catalog on `listener` until a signal ends it; `ready` is called with the address.

    Raises Interrupted, ProgramMissing without the extra, and what opening a repository raises.
    """
    datasette_module, uvicorn, web_server = _libraries()
    with tempfile.TemporaryDirectory(prefix="pitr-catalog-") as folder:
        snapshot = Snapshot(repository, Path(folder) / f"{DATABASE}.db")
        datasette = datasette_module.Datasette(
            [str(snapshot.path)], metadata=metadata(printable(str(repository))), settings=_SETTINGS
        )
        app = _Guarded(datasette.app(), snapshot, listener, notify)
        # Requests of the web server's own library are nothing that a person should see.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        config = uvicorn.Config(app, log_level="warning", access_log=False, log_config=None, lifespan="on")
        web_server.serve(config, listener, ready=lambda: ready(f"http://{authority(listener)}/"))


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import uvicorn  # noqa: PLC0415 - an extra
        from datasette import app as datasette_module  # noqa: PLC0415

        from pitr.jobs.serve.catalog_site import display  # noqa: PLC0415
        from pitr.system import web_server  # noqa: PLC0415
    except ImportError as error:
        raise ProgramMissing(
            f"the catalog in a browser needs Datasette, which is not installed ({error.name})",
            "Install it beside pitr: pip install 'pitr[web]'.",
        ) from error
    display.register()
    return datasette_module, uvicorn, web_server


class _Guarded:
    """Brings the copy up to date before a request, and answers no page of elsewhere.

    A page of any site can let the browser ask for a name that leads to 127.0.0.1: its requests carry that name.
    """

    def __init__(
        self, app: _App, snapshot: Snapshot, listener: socket.socket, notify: Callable[[str], None]
    ) -> None:
        self._app = app
        self._snapshot = snapshot
        self._notify = notify
        self._only_local = is_loopback(listener)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http":
            if self._only_local and _host_name(scope) not in _LOCAL_NAMES:
                await _refuse(send)
                return
            if not str(scope["path"]).startswith("/-/static"):
                await asyncio.to_thread(self._snapshot.refresh_if_due, self._notify)
        await self._app(scope, receive, send)


def _host_name(scope: _Scope) -> str:
    """The name that a request was sent to, without its port."""
    value = next((bytes(value) for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].lower()


async def _refuse(send: _Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    await send({"type": "http.response.body", "body": b"This catalog is only served to its own machine.\n"})
