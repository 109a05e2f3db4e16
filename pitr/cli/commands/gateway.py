# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr gateway`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pitr.cli import serve_options
from pitr.cli.options import Common, with_common
from pitr.errors import ProgramMissing, UsageError
from pitr.gateway.token import new_token, read_token
from pitr.ovirt.engine import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.repository import Repository
from pitr.repository.location import Location
from pitr.system.sockets import authority, tcp_listener
from pitr.system.target_path import given_path

#: ovirt-imageio uses the ports 54322 and 54323.
_PORT = 54325
_STREAMS = 8
#: Each stream has its own workers, and each worker holds some windows in memory.
_WORKERS = 2
_CLIENT_TIMEOUT_S = 3600.0

HostOption = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 means all addresses.")
]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one and prints it.")
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="TLS certificate with its chain, in PEM format.",
        parser=given_path("--cert"),
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Private key of the certificate, in PEM format.",
        parser=given_path("--key"),
    ),
]
PlainHttpOption = Annotated[
    bool,
    typer.Option("--plain-http", help="Listen without TLS, even on an address that other machines reach."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token that clients must send. Default: a new token, in a file whose path is printed.",
        parser=given_path("--token-file"),
    ),
]
MaxRequestsOption = Annotated[
    int, typer.Option("--max-requests", min=1, max=64, metavar="N", help="Number of streams at a time.")
]
WorkersOption = Annotated[
    int, typer.Option("--max-workers", min=1, max=64, help="Connections and threads for each stream.")
]
ClientTimeoutOption = Annotated[
    float,
    typer.Option(
        "--client-timeout",
        min=1.0,
        metavar="SECONDS",
        help="Abort a stream if its client neither reads nor sends anything for this time.",
    ),
]


@with_common(engine=True, moves_data=True)
def gateway(
    common: Common,
    host: HostOption = "127.0.0.1",
    port: PortOption = _PORT,
    cert: CertOption = None,
    key: KeyOption = None,
    plain_http: PlainHttpOption = False,
    token_file: TokenFileOption = None,
    max_requests: MaxRequestsOption = _STREAMS,
    max_workers: WorkersOption = _WORKERS,
    client_timeout: ClientTimeoutOption = _CLIENT_TIMEOUT_S,
) -> None:
    """Serve disks and points over HTTP, for any HTTP client.

    GET /images/ID returns a disk of the engine as a sparse stream, straight from ovirt-imageio; PUT writes one. GET
    /points and the paths below it return points of the repository, and raw disks with ranges. GET /openapi.json
    describes all requests. The gateway needs an engine, a repository, or both. If the engine is unreachable, each
    request tries it again. Ctrl-C or SIGTERM stops the gateway, with exit code 0.

    Examples: pitr gateway --cert gateway.pem --key gateway.key --host 0.0.0.0;
    curl -H @header 'https://gateway:54325/images/ID?context=zero' | vendor-put
    """
    if (cert is None) != (key is None):
        raise UsageError("--cert and --key go together")
    listen = _GatewayAddress(host, port, cert, key, plain_http)
    _serve(common, listen, token_file, _Limits(max_requests, max_workers, client_timeout))


@dataclass(frozen=True, slots=True)
class _GatewayAddress:
    """Where the gateway listens; with TLS if it has a certificate and a key."""

    host: str
    port: int
    cert: Path | None
    key: Path | None
    plain_http: bool


@dataclass(frozen=True, slots=True)
class _Limits:
    """The number of streams at a time, of workers for each, and the seconds that a client may be idle."""

    requests: int
    workers: int
    client_timeout_s: float


def _serve(common: Common, listen: _GatewayAddress, token_file: Path | None, limits: _Limits) -> None:
    try:
        # Optional packages: starlette and uvicorn.
        from pitr.gateway.app import Gateway  # noqa: PLC0415 - needs the extra pitr[gateway]
        from pitr.gateway.server import Tls, check_private, serve  # noqa: PLC0415
        from pitr.gateway.work import BlockingWork  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProgramMissing(
            f"the gateway needs the Python package {error.name}", "Install it: pip install 'pitr[gateway]'"
        ) from None

    tls = Tls(listen.cert, listen.key) if listen.cert is not None and listen.key is not None else None
    if tls is not None:
        tls.check()
    with serve_options.until_stopped(common.out) as ready, ExitStack() as stack:
        token, path = (
            (read_token(token_file), token_file)
            if token_file is not None
            else stack.enter_context(new_token())
        )
        listener = stack.enter_context(tcp_listener(listen.host, listen.port))
        if tls is None and not listen.plain_http:
            check_private(listener)
        engine, repository = stack.enter_context(_engine(common)), _repository(common)
        if engine is None and repository is None:
            raise UsageError(
                "the gateway has nothing to serve",
                "Name an engine with --engine-url, or a repository with --repo.",
            )
        work = stack.enter_context(
            BlockingWork(
                max_streams=limits.requests,
                client_timeout_s=limits.client_timeout_s,
                notify=common.out.notify,
            )
        )
        served = Gateway(work, token, engine, repository, limits.workers)
        url = f"{'http' if tls is None else 'https'}://{authority(listener, listen.host)}"
        document = {"gateway": {"url": url, "token_file": str(path)}}
        lines = [f"the gateway is at {url}", f"the token is in {path}"]
        serve(served.app(), work, listener, tls, ready=lambda: ready(document, lines))


@contextmanager
def _engine(common: Common) -> Iterator[Engine | None]:
    """Connect to the engine while the block runs; yield None if no engine is named. Raises EngineError."""
    if not common.names_engine:
        yield None
        return
    with closing(Engine(common.engine_config())) as engine:
        try:
            # Report a wrong password or CA now, not to the first client.
            engine.log.debug("the engine at %s is of version %s", engine.where, engine.version)
        except EngineFault as error:
            # After a power cut the gateway may start before the engine: each request tries the engine again.
            if not error.transient:
                raise
            common.out.notify(
                f"warning: {error.message}. Requests for the engine get HTTP status 502 until it answers"
            )
        yield engine


def _repository(common: Common) -> Location | None:
    location = common.location_if_named()
    if location is not None:
        # Report a repository that cannot be opened now, not to the first client.
        Repository.open(location).close()
    return location
