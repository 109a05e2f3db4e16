# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of `pitr backup` and `pitr export` that pipe streams out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.display.output import take_standard_output
from pitr.cli.options import choices
from pitr.endpoints.streams.commands import CommandTemplate
from pitr.endpoints.streams.output import FileOutput, PipeOutput, StreamOutput
from pitr.errors import UsageError
from pitr.jobs.backup.pipe_out import PipingOut
from pitr.system.signals import WakeOnSignal
from pitr.system.target_path import checked_new_file, format_of_suffix


class Compression(StrEnum):
    """How a stream that leaves pitr is compressed."""

    NONE = "none"
    ZSTD = "zstd"


CompressOption = Annotated[
    Compression | None,
    typer.Option(
        "--compress",
        metavar=choices(Compression),
        help="Compression of a stream that leaves pitr. Default: zstd; none for export formats other than sparse.",
    ),
]


def open_output(
    to: str, compression: Compression, wake: WakeOnSignal, *, contained: str = "sparse"
) -> StreamOutput:
    """Open the file or, for "-", the standard output that --to names, for a stream of the format `contained`.

    The caller finishes or aborts it.
    Raises UsageError for a terminal, for a file that exists, and for the suffix of an image file.
    """
    if to != "-":
        return FileOutput(_new_file(to, contained), compression.value)
    if sys.stdout.isatty():
        raise UsageError("cannot write a stream to a terminal", "Pipe it into a program, or name a file.")
    take_standard_output()
    return PipeOutput(sys.stdout.fileno(), compression.value, wake=wake)


def new_image_file(to: str) -> Path:
    """Return the new raw image file that --to names. Raises UsageError as `open_output` does."""
    return _new_file(to, "raw")


def _new_file(to: str, contained: str) -> Path:
    path = checked_new_file(to, "--to")
    promised = format_of_suffix(path)
    if promised is not None and promised != contained:
        raise UsageError(
            f"{path} has the suffix of a {promised} file, but --to writes {contained} data",
            f"Name another file, or write an image file with 'pitr restore --to-file {path}'.",
        )
    return path


@dataclass(frozen=True, slots=True)
class PipeOptions:
    """Where a backup's data goes instead of the repository. `compress` is for the data of --to and --put-command."""

    to: str | None
    put_command: str | None
    compress: Compression | None

    def check(self) -> None:
        """Raise UsageError for options that exclude each other."""
        if self.to is not None and self.put_command is not None:
            raise UsageError("--to and --put-command exclude each other")
        if self.compress is not None and self.to is None and self.put_command is None:
            raise UsageError("--compress goes with --to or --put-command")

    @contextmanager
    def opened(self) -> Iterator[PipingOut | None]:
        """Open the outputs for the blobs; None means the repository. After an error, the file of --to is removed."""
        if self.to is None and self.put_command is None:
            yield None
            return
        compression = self.compress or Compression.ZSTD
        with WakeOnSignal() as wake, ExitStack() as failure:
            if self.put_command is not None:
                yield PipingOut(
                    wake, command=CommandTemplate.parse(self.put_command), compression=compression.value
                )
            else:
                output = open_output(self.to or "-", compression, wake)
                failure.callback(output.abort)
                yield PipingOut(wake, output=output, compression=compression.value)
            failure.pop_all()
