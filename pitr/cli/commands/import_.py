# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pitr import times
from pitr.cli.display import tables
from pitr.cli.display.progress import showing
from pitr.cli.options import Common, MaxWorkersOption, choices, with_common
from pitr.endpoints.streams.input import open_input
from pitr.errors import PitrError, UsageError
from pitr.jobs import asked_time, documents, find
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_vm
from pitr.jobs.imports.files_in_order import FileImport
from pitr.jobs.imports.images import FORMATS, import_images
from pitr.jobs.imports.store_point import ImportedPoint
from pitr.jobs.imports.stream import ImportOptions, import_streams
from pitr.jobs.imports.virtnbdbackup import import_virtnbdbackup, partial_files
from pitr.model import Backup, Mode
from pitr.repository import Repository


class ImportFormat(StrEnum):
    """The format of a stream."""

    SPARSE = "sparse"
    RBD_DIFF = "rbd-diff"
    VIRTNBDBACKUP = "virtnbdbackup"


_PROGRAMS = ("virtnbdbackup", *FORMATS)

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[virtnbdbackup|qcow2|raw|vmdk|vdi|vhdx|vpc] FILE|FOLDER|-...",
        help="Streams, oldest first; an incremental stream that does not name its parent is based on the stream "
        "before it. - is standard input. After 'virtnbdbackup', the folder that it wrote to. After the format of "
        "image files, the images: for qcow2 all images of a chain (the lowest may be raw), or their folder.",
    ),
]
VMOption = Annotated[
    str | None,
    typer.Option(
        "--vm",
        metavar="VM",
        help="Name or id of the VM. Default: the VM that the stream or the folder names.",
    ),
]
DiskOption = Annotated[
    str | None,
    typer.Option(
        "--disk", metavar="DISK", help="Name or id of the disk. Default: the disk that the stream names."
    ),
]
TimeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--time", metavar="TIME", help="Time of the point, if the stream has none; give one for each FILE."
    ),
]
OntoOption = Annotated[
    str | None,
    typer.Option(
        "--onto",
        metavar="ID",
        help="Point that an incremental stream is based on, if the stream does not name it. A stream that names "
        "another one is refused.",
    ),
]
ImportFormatOption = Annotated[
    ImportFormat | None,
    typer.Option(
        "--format", metavar=choices(ImportFormat), help="Accept only this format. Default: any of them."
    ),
]


FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Store whole disks in full. Default: store only what differs from the newest point of the disk.",
    ),
]


@with_common(moves_data=True)
def import_(
    common: Common,
    sources: SourcesArgument,
    vm: VMOption = None,
    disk: DiskOption = None,
    time: TimeOption = None,
    onto: OntoOption = None,
    stream_format: ImportFormatOption = None,
    full: FullOption = False,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Import backups of other programs as points in time.

    Each stream makes a point with one disk: an oVirt sparse stream (of pitr or of ovirt-imageio's example), an rbd
    diff or a virtnbdbackup file, plain or compressed with zstd. The file of 'rbd export --export-format 2' makes a
    point of each snapshot. A whole folder of virtnbdbackup, or qcow2 images of backup_vm.py, make points with their
    original times. 'pitr show' prints a note on a point for each property that its source does not tell.

    If the repository has an earlier point of a disk, pitr compares a whole disk with it and stores only what differs.

    What was imported before adds nothing, so you can import a growing folder every night. The name of the VM comes
    from vmconfig*.xml or NAME.cpt in the folder, else it is the folder's name.

    A blob that 'pitr backup' piped out becomes part of its point again. pitr verifies its digest first.

    Examples: vendor-get 1234 | pitr import -; pitr import --vm web1 --disk system full.diff monday.diff;
    pitr import virtnbdbackup /srv/old/web1; pitr import vmdk old.vmdk --vm web1 --disk system --time 2026-11-25
    """
    if sources.count("-") > 1:
        raise UsageError("standard input can be read only once")
    options = _ImportArguments(
        vm, disk, tuple(time or ()), onto, stream_format, common.workers(max_workers), full
    )
    with common.repository() as repository:
        if sources[0] in _PROGRAMS and len(sources) > 1:
            points = _import_files(common, repository, sources[0], sources[1:], options)
        else:
            points = _import_streams(common, repository, sources, options)
        facts = _facts(repository, points)
    new = [point.backup for point in points if point.new]
    for backup in new:
        if facts[backup.backup_id].damaged:
            common.out.notify(
                f"warning: the point of {times.for_people(backup.point)} is stored, but it is DAMAGED: it is based on "
                "a damaged point. 'pitr show' tells the damage"
            )
    if common.out.json:
        known = [point.backup for point in points if not point.new]
        common.out.document(
            {
                "imported": [documents.point(backup, facts[backup.backup_id]) for backup in new],
                "known": [documents.point(backup, facts[backup.backup_id]) for backup in known],
            }
        )
    elif new:
        common.out.show(tables.points(new, facts))
    else:
        common.out.notify("nothing new: the repository already holds all points")


@dataclass(frozen=True, slots=True)
class _ImportArguments:
    """The options of the command."""

    vm: str | None
    disk: str | None
    time: tuple[str, ...]
    onto: str | None
    stream_format: ImportFormat | None
    workers: int
    full: bool

    def times(self, sources: Sequence[str]) -> list[datetime]:
        """Return a time for each source; an empty list if none is given. Raises UsageError for another number."""
        if self.time and len(self.time) != len(sources):
            raise UsageError(
                f"there are {len(sources)} files and {len(self.time)} times", "Give a --time for each file."
            )
        return [asked_time.parse(text).earliest for text in self.time]

    def of_stream(
        self, repository: Repository, time: datetime | None, before: Backup | None
    ) -> ImportOptions:
        """Return the options for the stream after `before`; --onto is for the first stream only."""
        onto = None
        if self.onto is not None and before is None:
            onto = find.point_with_id(repository, self.onto).backup
        return ImportOptions(
            vm=self.vm,
            disk=self.disk,
            time=time,
            onto=onto,
            before=before,
            format=self.stream_format.value if self.stream_format is not None else None,
            workers=self.workers,
            full=self.full,
        )


def _facts(repository: Repository, points: Sequence[ImportedPoint]) -> Mapping[str, PointFacts]:
    """Return the facts about these points by backup id, for every point."""
    facts: dict[str, PointFacts] = {point.backup.backup_id: NO_FACTS for point in points}
    for vm_id in {point.backup.vm.id for point in points}:
        facts |= facts_of_vm(repository, vm_id)
    return facts


def _import_streams(
    common: Common, repository: Repository, sources: Sequence[str], options: _ImportArguments
) -> list[ImportedPoint]:
    given: Sequence[datetime | None] = options.times(sources) or [None] * len(sources)
    points: list[ImportedPoint] = []
    for source, time in zip(sources, given, strict=True):
        of_stream = options.of_stream(repository, time, points[-1].backup if points else None)
        try:
            points += _import_one(common, repository, source, of_stream)
        except PitrError as error:
            if points:
                error.add_note(f"{len(points)} of {len(sources)} files were imported before {source}")
            raise
    return points


def _import_one(
    common: Common, repository: Repository, name: str, options: ImportOptions
) -> list[ImportedPoint]:
    if name == "-" and sys.stdin.isatty():
        raise UsageError("cannot read a stream from a terminal", "Pipe it in, or name a file.")
    with (
        open_input(name, sys.stdin.buffer) as stream,
        showing(common.out, f"import {name}") as progress,
    ):
        points = import_streams(repository, stream, options, progress=progress)
    for point in points:
        backup = point.backup
        if not point.new:
            common.out.notify(_already(backup))
            continue
        if backup.mode is not Mode.IMPORTED:
            common.out.notify(
                f"a blob of the point of {times.for_people(backup.point)}, VM {backup.vm.name}, is in the repository "
                "again"
            )
        for stored in backup.streams:
            if stored.note:
                common.out.notify(f"note on {stored.name}: {stored.note}")
    return points


def _already(backup: Backup) -> str:
    return f"already imported: the point of {times.for_people(backup.point)}, VM {backup.vm.name}"


def _import_files(
    common: Common, repository: Repository, program: str, sources: Sequence[str], options: _ImportArguments
) -> list[ImportedPoint]:
    if options.onto is not None or options.stream_format is not None:
        raise UsageError(f"--onto and --format go with streams, not with {program!r}")

    def done(point: ImportedPoint) -> None:
        backup = point.backup
        when = times.for_people(backup.point)
        common.out.notify(f"imported the point of {when}" if point.new else _already(backup))
        for disk in backup.left_out if point.new else ():
            common.out.notify(f"the point of {when} lacks disk {disk.name}: {disk.reason}")

    with showing(common.out, f"import {program}") as progress:
        run = FileImport(repository, options.vm, done, options.workers, progress, options.full)
        paths = [Path(source) for source in sources]
        if program in FORMATS:
            return import_images(run, paths, program, disk=options.disk, given_times=options.times(sources))
        if len(sources) != 1 or options.disk is not None or options.time:
            raise UsageError(
                "virtnbdbackup's files name their disks and times",
                "Name one folder, and neither --disk nor --time.",
            )
        for path in partial_files(paths[0]):
            common.out.notify(
                f"{path.name} is incomplete: virtnbdbackup was stopped while it wrote this file"
            )
        return import_virtnbdbackup(run, paths[0])
