# SPDX-License-Identifier: GPL-2.0-or-later
"""Serve the catalog to a browser, with Datasette on a snapshot (pitr/jobs/serve/catalog_site/snapshot.py).

Datasette and its web server are an extra; no other part of pitr needs them.
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
from pitr.reporting import Notify
from pitr.repository.location import Location
from pitr.system.sockets import authority, is_loopback
from pitr.text import printable

_SETTINGS = {
    # The browser must not cache pages, so that they are always up to date.
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
    repository: Location,
    listener: socket.socket,
    *,
    ready: Callable[[str], None],
    notify: Notify,
) -> None:
    """Serve the catalog on `listener` until a signal arrives; call `ready` with the address.

    Raises Interrupted, ProgramMissing if the extra is not installed, and the errors of Repository.open.
    """
    datasette_module, uvicorn, web_server = _libraries()
    with tempfile.TemporaryDirectory(prefix="pitr-catalog-") as folder:
        snapshot = Snapshot(repository, Path(folder) / f"{DATABASE}.db")
        datasette = datasette_module.Datasette(
            [str(snapshot.path)], metadata=metadata(printable(str(repository))), settings=_SETTINGS
        )
        app = _Guarded(datasette.app(), snapshot, listener, notify)
        # Datasette's HTTP client logs each request; hide these lines.
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
    """Updates the snapshot before each request, and refuses requests from pages of other sites.

    Such a page can send requests to a host name that resolves to 127.0.0.1; the requests contain that name.
    """

    def __init__(self, app: _App, snapshot: Snapshot, listener: socket.socket, notify: Notify) -> None:
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
    """Return the host name of a request, without the port."""
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
    await send({"type": "http.response.body", "body": b"pitr serves this catalog only to its own machine.\n"})
