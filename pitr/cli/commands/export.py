# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pitr import times
from pitr.cli import point_options
from pitr.cli.options import (
    AtOption,
    Common,
    MaxWorkersOption,
    OnlyDiskOption,
    OnlyVMArgument,
    PointOption,
    choices,
    with_common,
)
from pitr.cli.pipe_options import Compression, open_output
from pitr.errors import UsageError
from pitr.text import printable
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.jobs.export import Exported
    from pitr.model import Backup, Stream

_FORMATS = ("sparse", "rbd-diff", "rbd-diff-v2", "raw")


@with_common()
def export(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    disk: OnlyDiskOption = None,
    stream_format: Annotated[
        str,
        typer.Option("--format", metavar="|".join(_FORMATS), help="Format of the export."),
    ] = "sparse",
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="ID", help="Only what is different from this point, an earlier or later one."
        ),
    ] = None,
    compress: Annotated[
        Compression | None,
        typer.Option(
            "--compress",
            metavar=choices(Compression),
            help="Left out: zstd for sparse streams, none for others.",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE|-", help="A new file, or - for standard output (a pipe).")
    ] = "-",
    max_workers: MaxWorkersOption = None,
) -> None:
    """Write a disk at a point as a stream, to a pipe or a file. With --since only its difference to another point.

    A sparse stream is what oVirt's own examples read; `rbd import-diff` reads rbd-diff. With --to - the result is
    printed on standard error. A stream that is cut off has no end, which every reader notices.

    Raw is the disk itself. A file gets holes where it is zero; a pipe cannot have any, so that all of the disk goes
    through it, zeroes included, and nothing but the exit code tells whether it was all. Where the reader lets you
    choose, pipe --format sparse; else --compress zstd makes little of the zeroes.

    Examples: pitr export web1 --at now --disk system | vendor-put;
    pitr export web1 --at now --format raw | sha256sum;
    pitr export --point 1c2d --since 9f8e --format rbd-diff | rbd import-diff - pool/image
    """
    from pitr.cli.display.progress import showing
    from pitr.jobs import export as job
    from pitr.jobs import find
    from pitr.system.signals import WakeOnSignal

    asked = point_options.exactly_one("an export", at, point)
    if stream_format not in _FORMATS:
        raise UsageError(f"--format is one of {', '.join(_FORMATS)}, not {stream_format!r}")
    if stream_format == "raw" and since is not None:
        raise UsageError(
            "--format raw is a whole disk, without room for what is unchanged",
            "Leave --since out, or take another format.",
        )
    to_sparse_file = stream_format == "raw" and to != "-" and compress in (None, Compression.NONE)
    workers = common.workers(max_workers)
    with common.repository() as repository:
        backup = asked.find(repository, vm).backup
        stream = find.stream_of(backup, disk)
        other = None if since is None else find.point_with_id(repository, since, backup.vm).backup
        with WakeOnSignal() as wake, showing(common.out, f"export {printable(stream.name)}") as progress:
            if to_sparse_file:
                done = job.export_raw(
                    repository, backup, stream, Path(to), workers=workers, progress=progress
                )
            else:
                done = job.export_stream(
                    repository,
                    backup,
                    stream,
                    open_output(
                        to,
                        compress or (Compression.ZSTD if stream_format == "sparse" else Compression.NONE),
                        wake,
                    ),
                    cast("job.ExportFormat", stream_format),
                    since=other,
                    workers=workers,
                    progress=progress,
                )
    _show(common, backup, other, stream, done, stream_format)


def _show(
    common: Common,
    backup: Backup,
    since: Backup | None,
    stream: Stream,
    done: Exported,
    stream_format: str,
) -> None:
    document = {
        "export": {
            "backup_id": backup.backup_id,
            "since_backup_id": since.backup_id if since else None,
            "point": times.to_text(backup.point),
            "format": stream_format,
            **asdict(done),
            "unchanged_bytes": done.unchanged_bytes,
        }
    }
    if common.out.json:
        common.out.document(document)
        return
    common.out.notify(
        f"exported disk {stream.name} of {times.for_people(backup.point)}: {human_size(done.data_bytes)} data, "
        f"{human_size(done.zero_bytes)} zero, {human_size(done.unchanged_bytes)} unchanged"
    )
