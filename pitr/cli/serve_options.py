# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that serve until they are stopped: how they say that they are ready, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.errors import Interrupted

if TYPE_CHECKING:
    import socket

    from pitr.cli.display.output import Printer

LOOPBACK = "127.0.0.1"

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address of --port (127.0.0.1). There is no encryption and no password: whoever reaches it reads.",
    ),
]


#: Is called with a document and lines for people, once clients can connect.
Ready = Callable[[dict[str, Any], Sequence[str]], None]


@contextmanager
def until_stopped(output: Printer) -> Iterator[Ready]:
    """The block serves until a signal comes. From when it calls what it gets, that is its normal end: exit code 0."""
    is_ready = False

    def ready(document: dict[str, Any], lines: Sequence[str]) -> None:
        nonlocal is_ready
        is_ready = True
        tell(output, document, [*lines, "serving until Ctrl-C or SIGTERM"])

    try:
        yield ready
    except Interrupted:
        if not is_ready:
            raise


def tell(output: Printer, document: dict[str, Any], lines: Sequence[str]) -> None:
    """Tell of what is served while that goes on: the document on one line, or these lines on standard error."""
    if output.json:
        output.document(document, one_line=True)
        return
    for line in lines:
        output.notify(line)


def warn_of_others(output: Printer, listener: socket.socket, what: str) -> None:
    """Say that others than this machine can read `what`, where they can."""
    from pitr.system.sockets import is_loopback

    if not is_loopback(listener):
        output.notify(f"warning: whoever reaches this address and port can read {what}")
