# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that serve until you stop them, and how these commands report that they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from typing import Annotated, Any

import typer

from pitr.cli.display.output import Printer
from pitr.errors import Interrupted
from pitr.system.sockets import is_loopback

LOOPBACK = "127.0.0.1"

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address for --port. Default: 127.0.0.1. Anyone who can connect can read: it has no password.",
    ),
]


#: Call it with a JSON document and lines for people as soon as clients can connect.
Ready = Callable[[dict[str, Any], Sequence[str]], None]


@contextmanager
def until_stopped(output: Printer) -> Iterator[Ready]:
    """Run the block until a signal interrupts it. Once the block has called its value, a signal means success."""
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
    """Print the document on one line, or `lines` on standard error, while the command serves."""
    if output.json:
        output.document(document, one_line=True)
        return
    for line in lines:
        output.notify(line)


def warn_of_others(output: Printer, listener: socket, what: str) -> None:
    """Warn if other machines can read `what`."""
    if not is_loopback(listener):
        output.notify(f"warning: anyone who can connect to this address and port can read {what}")
