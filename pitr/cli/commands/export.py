# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr export`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from pitr import times
from pitr.cli import point_options
from pitr.cli.display.progress import showing
from pitr.cli.options import (
    AtOption,
    Common,
    MaxWorkersOption,
    NewestGoodOption,
    OnlyDiskOption,
    OnlyVMArgument,
    PointOption,
    choices,
    with_common,
)
from pitr.cli.pipe_options import Compression, CompressOption, new_image_file, open_output
from pitr.errors import UsageError
from pitr.jobs import find
from pitr.jobs.export import Exported, ExportFormat, export_raw, export_stream
from pitr.jobs.good_points import GoodPoint
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.system.signals import WakeOnSignal
from pitr.system.target_path import format_of_suffix
from pitr.text import printable
from pitr.units import human_size

ExportFormatOption = Annotated[
    ExportFormat | None,
    typer.Option(
        "--format",
        metavar=choices(ExportFormat),
        help="Format of the export. Default: raw if the file of --to ends in .raw, else sparse.",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME|ID",
        help="Export only the difference to this point (a time or an id), an older or a newer one.",
    ),
]
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="FILE|-", help="Write to this new file; - is standard output (a pipe)."),
]


@with_common(moves_data=True)
def export(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: OnlyDiskOption = None,
    stream_format: ExportFormatOption = None,
    since: SinceOption = None,
    compress: CompressOption = None,
    to: ToOption = "-",
    max_workers: MaxWorkersOption = None,
) -> None:
    """Write a disk at a point as a stream, to a pipe or a file. With --since, write only the difference to a point.

    oVirt's own examples read a sparse stream, and Ceph's `rbd import-diff` reads rbd-diff, not rbd-diff-v2.
    With --to - pitr prints the result on standard error. Readers detect a truncated stream, because it has no end mark.

    A raw export is the disk itself. A file gets holes where the disk is zero; a pipe gets the whole disk, zeroes
    included, and only the exit code tells whether it is complete. If the reader lets you choose, pipe --format sparse;
    else use --compress zstd, which compresses the zeroes well.

    Examples: pitr export web1 --at now --disk system | vendor-put;
    pitr export web1 --at now --format raw | sha256sum;
    pitr export --point 1c2d --since 9f8e --format rbd-diff | rbd import-diff - pool/image
    """
    asked = point_options.exactly_one("an export", at, point, newest_good=newest_good)
    if stream_format is None:
        stream_format = ExportFormat.RAW if format_of_suffix(to) == "raw" else ExportFormat.SPARSE
    if stream_format is ExportFormat.RAW and since is not None:
        raise UsageError(
            "--format raw is a whole disk: it cannot leave out unchanged ranges",
            "Leave --since out, or choose another format.",
        )
    output = _Output(to, stream_format, compress, common.workers(max_workers))
    with common.repository() as repository:
        wanted = GoodPoint([disk] if disk is not None else (), check="export")
        chosen = asked.find_good(repository, vm, wanted, common.out.notify)
        point_options.tell(common.out, chosen)
        backup = chosen.backup
        stream = find.stream_of(backup, disk, repository)
        other = None
        if since is not None:
            earlier = point_options.since(repository, since, chosen, [stream.disk_id])
            point_options.tell(common.out, earlier)
            other = earlier.backup
        done = _export(common, repository, backup, stream, other, output)
    _show(common, backup, other, done, stream_format)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where the export goes, and in what format."""

    to: str
    format: ExportFormat
    compress: Compression | None
    workers: int

    @property
    def compression(self) -> Compression:
        default = Compression.ZSTD if self.format is ExportFormat.SPARSE else Compression.NONE
        return self.compress or default

    @property
    def is_image_file(self) -> bool:
        """Return whether the export is a raw image file, which can have holes."""
        return self.format is ExportFormat.RAW and self.to != "-" and self.compression is Compression.NONE


def _export(
    common: Common,
    repository: Repository,
    backup: Backup,
    stream: Stream,
    since: Backup | None,
    output: _Output,
) -> Exported:
    with WakeOnSignal() as wake, showing(common.out, f"export {printable(stream.name)}") as progress:
        if output.is_image_file:
            path = new_image_file(output.to)
            return export_raw(repository, backup, stream, path, workers=output.workers, progress=progress)
        return export_stream(
            repository,
            backup,
            stream,
            open_output(output.to, output.compression, wake, contained=output.format),
            output.format,
            since=since,
            workers=output.workers,
            progress=progress,
        )


def _show(
    common: Common, backup: Backup, since: Backup | None, done: Exported, stream_format: ExportFormat
) -> None:
    if common.out.json:
        common.out.document(
            {
                "export": {
                    "backup_id": backup.backup_id,
                    "since_backup_id": since.backup_id if since else None,
                    "point": times.to_text(backup.point),
                    "format": stream_format.value,
                    **asdict(done),
                    "unchanged_bytes": done.unchanged_bytes,
                }
            }
        )
        return
    common.out.notify(
        f"exported disk {done.name} of {times.for_people(backup.point)}: {human_size(done.data_bytes)} data, "
        f"{human_size(done.zero_bytes)} zero, {human_size(done.unchanged_bytes)} unchanged"
    )
