# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pitr import times
from pitr.cli import piping
from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.units import human_size, printable

if TYPE_CHECKING:
    from pitr.jobs.export import Exported
    from pitr.model import Backup, Stream

_FORMATS = ("sparse", "rbd-diff", "rbd-diff-v2", "raw")


@with_common()
def export(
    common: Common,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="[VM]", help="Name or id; left out: the only VM in the repository."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="The newest point at or before TIME (local time, or …Z)."),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="This point: a backup id, or the beginning of one."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option("--disk", metavar="DISK", help="Name or id; left out: the only disk of the point."),
    ] = None,
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
        str | None,
        typer.Option("--compress", metavar="none|zstd", help="Left out: zstd for sparse streams, else none."),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE|-", help="A new file, or - for standard output (a pipe).")
    ] = "-",
    max_workers: Annotated[int, typer.Option("--max-workers", min=1, max=64, help="Threads.")] = 4,
) -> None:
    """Write a disk at a point, or its difference to another point, as a stream on a pipe or to a file.

    A sparse stream is what oVirt's own examples read; `rbd import-diff` reads rbd-diff. With --to - the result is
    printed on standard error. A stream that is cut off has no end, which every reader notices.

    Examples: pitr export web1 --at now --disk system | vendor-put;
    pitr export --point 1c2d --since 9f8e --format rbd-diff | rbd import-diff - pool/image
    """
    from pitr.cli.progress import showing
    from pitr.endpoint.wake import Wake
    from pitr.jobs import choosing
    from pitr.jobs import export as job

    if (at is None) == (point is None):
        raise UsageError(
            "an export needs one of --at and --point",
            "Write --at 2020-06-30T22:00, or --point with an id of 'pitr list'.",
        )
    if stream_format not in _FORMATS:
        raise UsageError(f"--format is one of {', '.join(_FORMATS)}, not {stream_format!r}")
    if stream_format == "raw" and (since is not None or compress is not None or to == "-"):
        raise UsageError("--format raw writes a whole disk to a file", "Name it with --to FILE.")
    time = times.parse_at(at) if at is not None else None
    with common.repository() as repository:
        backup = choosing.point_of(repository, vm, point, time).backup
        streams = choosing.streams_of(backup, [disk] if disk is not None else [])
        if len(streams) != 1:
            names = ", ".join(f"{printable(stream.name)} ({stream.disk_id})" for stream in streams)
            raise UsageError("the point holds several disks", f"Choose one with --disk: {names}.")
        other = (
            None
            if since is None
            else choosing.point_named(repository.catalog_with_point(since), since, backup.vm).backup
        )
        with Wake() as wake, showing(common.out, f"export {printable(streams[0].name)}") as progress:
            if stream_format == "raw":
                done = job.export_raw(
                    repository, backup, streams[0], Path(to), workers=max_workers, progress=progress
                )
            else:
                done = job.export_stream(
                    repository,
                    backup,
                    streams[0],
                    piping.open_output(
                        to, compress or ("zstd" if stream_format == "sparse" else "none"), wake
                    ),
                    cast("job.StreamFormat", stream_format),
                    since=other,
                    workers=max_workers,
                    progress=progress,
                )
    _show(common, backup, other, streams[0], done, stream_format)


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
