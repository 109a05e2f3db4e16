# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr gateway`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import PitrError, ProgramMissing, UsageError

if TYPE_CHECKING:
    from pitr.engine import Engine
    from pitr.gateway.token import Token

#: Beside ovirt-imageio's 54322 and 54323.
_PORT = 54325
_STREAMS = 8
#: Each stream has its own workers, and each of those some windows in memory.
_WORKERS = 2
_CLIENT_TIMEOUT_S = 3600.0


@with_common(engine=True)
def gateway(
    common: Common,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one, which is printed.")
    ] = _PORT,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="Certificate for TLS, with its chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key, PEM.")] = None,
    plain_http: Annotated[
        bool,
        typer.Option("--plain-http", help="Listen without TLS also where others can listen in."),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="The token that clients have to send; left out: a new one, in a file whose path is printed.",
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option("--max-requests", min=1, max=64, metavar="N", help="How many streams at a time.")
    ] = _STREAMS,
    max_workers: Annotated[
        int, typer.Option("--max-workers", min=1, max=64, help="Connections and threads, for each stream.")
    ] = _WORKERS,
    client_timeout: Annotated[
        float,
        typer.Option(
            "--client-timeout",
            min=1.0,
            metavar="SECONDS",
            help="End a stream whose client neither takes nor sends anything for so long.",
        ),
    ] = _CLIENT_TIMEOUT_S,
) -> None:
    """Serve disks and points over HTTP, for programs that speak nothing else: curl is enough.

    GET /images/ID is a disk of the engine as a sparse stream, straight from ovirt-imageio; PUT writes one. GET
    /points and what is below it is what the repository holds, raw disks with ranges. /openapi.json tells everything.
    It runs until a signal ends it, and needs an engine, a repository, or both.

    Examples: pitr gateway --cert gateway.pem --key gateway.key --host 0.0.0.0;
    curl -H @header 'https://gateway:54325/images/ID?context=zero' | vendor-put
    """
    try:
        from pitr.gateway.app import Gateway
        from pitr.gateway.server import Listening, serve
    except ModuleNotFoundError as error:
        raise ProgramMissing(
            f"the gateway needs the Python package {error.name}", "Install it: pip install 'pitr[gateway]'"
        ) from None
    from pitr.gateway.work import Work

    listening = Listening(host, port, cert, key, plain_http)
    listening.check()
    with ExitStack() as stack:
        token, path = _token(stack, token_file)
        bound = stack.enter_context(listening.bound())
        engine, repository = _engine(common, stack), _repository(common)
        if engine is None and repository is None:
            raise UsageError(
                "the gateway has nothing to serve",
                "Name an engine with --engine-url, a repository with --repo.",
            )
        work = stack.enter_context(
            Work(max_streams=max_requests, client_timeout_s=client_timeout, notify=common.out.notify)
        )
        served = Gateway(
            work, token, engine, repository, _list_points(repository), _show_point(repository), max_workers
        )
        url = listening.url(bound)
        serve(served.app(), work, listening, bound, lambda: _say(common, url, path))


def _token(stack: ExitStack, token_file: Path | None) -> tuple[Token, Path]:
    from pitr.gateway.token import new_token, read_token

    if token_file is not None:
        return read_token(token_file), token_file
    return stack.enter_context(new_token())


def _engine(common: Common, stack: ExitStack) -> Engine | None:
    import os

    named = common.config or common.engine_url or os.environ.get("PITR_ENGINE_URL")
    if not named and common.settings.engine_section is None:
        return None
    return stack.enter_context(common.engine())


def _repository(common: Common) -> Path | None:
    from pitr.repository import Repository

    path = common.repo or common.settings.repository
    if path is not None:
        # Better said now than to the first client.
        Repository.open(path).close()
    return path


def _list_points(path: Path | None) -> Callable[[str | None], Any]:
    from pitr.cli.inspect import points_document
    from pitr.repository import Repository

    def list_points(vm: str | None) -> Any:
        with Repository.open(_known(path)) as repository:
            return points_document(repository, vm)

    return list_points


def _show_point(path: Path | None) -> Callable[[str], Any]:
    from pitr.cli.inspect import point_document
    from pitr.repository import Repository

    def show_point(point: str) -> Any:
        with Repository.open(_known(path)) as repository:
            return point_document(repository, point)

    return show_point


def _known(path: Path | None) -> Path:
    if path is None:
        raise PitrError("there is no repository")
    return path


def _say(common: Common, url: str, token_file: Path) -> None:
    if common.out.json:
        common.out.document({"gateway": {"url": url, "token_file": str(token_file)}}, one_line=True)
    else:
        common.out.show(f"Serving {url}", f"The token is in {token_file}")
    import sys

    sys.stdout.flush()
