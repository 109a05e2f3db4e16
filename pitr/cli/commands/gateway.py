# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr gateway`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli import serve_options
from pitr.cli.options import Common, with_common
from pitr.errors import ProgramMissing, UsageError

if TYPE_CHECKING:
    from pitr.gateway.token import Token
    from pitr.ovirt.engine import Engine

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
    """Serve disks and points over HTTP, for any HTTP client.

    GET /images/ID is a disk of the engine as a sparse stream, straight from ovirt-imageio; PUT writes one. GET
    /points and what is below it is what the repository holds, raw disks with ranges. /openapi.json tells everything.
    It needs an engine, a repository, or both; an engine that cannot be reached yet is asked again with each request.
    Ctrl-C or SIGTERM ends it, with exit code 0.

    Examples: pitr gateway --cert gateway.pem --key gateway.key --host 0.0.0.0;
    curl -H @header 'https://gateway:54325/images/ID?context=zero' | vendor-put
    """
    try:
        from pitr.gateway.app import Gateway
        from pitr.gateway.server import Tls, check_private, serve
    except ModuleNotFoundError as error:
        raise ProgramMissing(
            f"the gateway needs the Python package {error.name}", "Install it: pip install 'pitr[gateway]'"
        ) from None
    from pitr.gateway.work import BlockingWork
    from pitr.system.sockets import authority, tcp_listener

    if (cert is None) != (key is None):
        raise UsageError("--cert and --key go together")
    tls = Tls(cert, key) if cert is not None and key is not None else None
    if tls is not None:
        tls.check()
    with serve_options.until_stopped(common.out) as tell, ExitStack() as stack:
        token, path = _token(stack, token_file)
        listener = stack.enter_context(tcp_listener(host, port))
        if tls is None and not plain_http:
            check_private(listener)
        engine, repository = _engine(common, stack), _repository(common)
        if engine is None and repository is None:
            raise UsageError(
                "the gateway has nothing to serve",
                "Name an engine with --engine-url, a repository with --repo.",
            )
        work = stack.enter_context(
            BlockingWork(max_streams=max_requests, client_timeout_s=client_timeout, notify=common.out.notify)
        )
        served = Gateway(work, token, engine, repository, max_workers)
        url = f"{'http' if tls is None else 'https'}://{authority(listener, host)}"
        document = {"gateway": {"url": url, "token_file": str(path)}}
        lines = [f"the gateway is at {url}", f"the token is in {path}"]
        serve(served.app(), work, listener, tls, ready=lambda: tell(document, lines))


def _token(stack: ExitStack, token_file: Path | None) -> tuple[Token, Path]:
    from pitr.gateway.token import new_token, read_token

    if token_file is not None:
        return read_token(token_file), token_file
    return stack.enter_context(new_token())


def _engine(common: Common, stack: ExitStack) -> Engine | None:
    import os

    from pitr.ovirt.engine import Engine
    from pitr.ovirt.engine.faults import EngineFault

    named = common.config or common.engine_url or os.environ.get("PITR_ENGINE_URL")
    if not named and common.settings.engine_section is None:
        return None
    engine = Engine(common.engine_config())
    stack.callback(engine.close)
    try:
        # A password or CA that is wrong is better said now than to the first client.
        engine.log.debug("the engine at %s is of version %s", engine.where, engine.version)
    except EngineFault as error:
        # After a power cut both start, and nobody knows which one first: each request asks the engine anew.
        if not error.transient:
            raise
        common.out.notify(
            f"warning: {error.message}; what needs the engine is refused with HTTP status 502 until it answers"
        )
    return engine


def _repository(common: Common) -> Path | None:
    from pitr.repository import Repository

    path = common.repo or common.settings.repository
    if path is not None:
        # Better said now than to the first client.
        Repository.open(path).close()
    return path
