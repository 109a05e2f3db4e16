# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams that `pitr backup` and `pitr export` pipe out: what the options mean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pitr.cli.display.output import take_standard_output
from pitr.errors import UsageError

if TYPE_CHECKING:
    from pitr.endpoints.streams.output import StreamOutput
    from pitr.jobs.backup.pipe_out import PipingOut
    from pitr.system.signals import WakeOnSignal

Compression = Literal["none", "zstd"]


def compression_of(text: str) -> Compression:
    if text not in ("none", "zstd"):
        raise UsageError(f"--compress is none or zstd, not {text!r}")
    return cast(Compression, text)


def open_output(to: str, compression: str, wake: WakeOnSignal) -> StreamOutput:
    """Open what --to names. Raises UsageError for a terminal and for a file that exists."""
    from pitr.endpoints.streams.output import FileOutput, PipeOutput

    chosen = compression_of(compression)
    if to != "-":
        return FileOutput(Path(to), chosen)
    if sys.stdout.isatty():
        raise UsageError("a stream does not go to a terminal", "Pipe it into a program, or name a file.")
    take_standard_output()
    return PipeOutput(sys.stdout.fileno(), chosen, wake=wake)


def check(to: str | None, put_command: str | None, compress: str | None) -> None:
    """Raise UsageError for options that do not go together."""
    if to is not None and put_command is not None:
        raise UsageError("--to and --put-command exclude each other")
    if compress is not None:
        if to is None and put_command is None:
            raise UsageError("--compress goes with --to or --put-command")
        compression_of(compress)


@contextmanager
def opened(to: str | None, put_command: str | None, compress: str | None) -> Iterator[PipingOut | None]:
    """Where the blobs of a backup go; None for the repository. Left with an error, a file is removed again."""
    if to is None and put_command is None:
        yield None
        return
    from pitr.endpoints.streams.commands import CommandTemplate
    from pitr.jobs.backup.pipe_out import PipingOut
    from pitr.system.signals import WakeOnSignal

    compression = compression_of(compress or "zstd")
    with WakeOnSignal() as wake, ExitStack() as failure:
        if put_command is not None:
            yield PipingOut(wake, command=CommandTemplate.parse(put_command), compression=compression)
        else:
            output = open_output(to or "-", compression, wake)
            failure.callback(output.abort)
            yield PipingOut(wake, output=output, compression=compression)
        failure.pop_all()
