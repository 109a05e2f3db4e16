# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from pitr.jobs.imports.files_in_order import FileImport
from pitr.jobs.imports.qcow2 import import_qcow2
from pitr.jobs.imports.stream import ImportOptions, import_stream
from pitr.jobs.imports.virtnbdbackup import import_virtnbdbackup
from pitr.model import Backup, Mode
from pitr.repository import Repository


class ImportFormat(StrEnum):
    """The format of a stream."""

    SPARSE = "sparse"
    RBD_DIFF = "rbd-diff"
    VIRTNBDBACKUP = "virtnbdbackup"


_PROGRAMS = ("virtnbdbackup", "qcow2")

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[virtnbdbackup|qcow2] FILE|FOLDER|-...",
        help="Streams, oldest first; an incremental stream that does not name its parent is based on the stream "
        "before it. - is standard input. After 'virtnbdbackup', the folder that it wrote to. After 'qcow2', all "
        "images of a chain.",
    ),
]
VMOption = Annotated[
    str | None,
    typer.Option("--vm", metavar="VM", help="Name or id of the VM. Default: the VM that the stream names."),
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
        help="Point that an incremental stream is based on, if the stream does not name it.",
    ),
]
ImportFormatOption = Annotated[
    ImportFormat | None,
    typer.Option(
        "--format", metavar=choices(ImportFormat), help="Accept only this format. Default: any of them."
    ),
]


@with_common()
def import_(
    common: Common,
    sources: SourcesArgument,
    vm: VMOption = None,
    disk: DiskOption = None,
    time: TimeOption = None,
    onto: OntoOption = None,
    stream_format: ImportFormatOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Import backups of other programs as points in time.

    Each stream makes a point with one disk: an oVirt sparse stream (of pitr or of ovirt-imageio's example), an rbd
    diff or a virtnbdbackup file, plain or compressed with zstd. A whole folder of virtnbdbackup, or qcow2 images of
    backup_vm.py, make points with their original times. 'pitr show' prints a note on a point for each property that
    its source does not tell.

    A blob that 'pitr backup' piped out becomes part of its point again. pitr verifies its digest first.

    Examples: vendor-get 1234 | pitr import -; pitr import --vm web1 --disk system full.diff monday.diff;
    pitr import virtnbdbackup /srv/old/web1 --vm web1
    """
    if sources.count("-") > 1:
        raise UsageError("standard input can be read only once")
    options = _ImportArguments(vm, disk, tuple(time or ()), onto, stream_format, common.workers(max_workers))
    if sources[0] in _PROGRAMS and len(sources) > 1:
        points = _import_files(common, sources[0], sources[1:], options)
    else:
        points = _import_streams(common, sources, options)
    if common.out.json:
        common.out.document({"imported": [documents.point(backup) for backup in points]})
    else:
        common.out.show(tables.points(points))


@dataclass(frozen=True, slots=True)
class _ImportArguments:
    """The options of the command."""

    vm: str | None
    disk: str | None
    time: tuple[str, ...]
    onto: str | None
    stream_format: ImportFormat | None
    workers: int

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
        )


def _import_streams(common: Common, sources: Sequence[str], options: _ImportArguments) -> list[Backup]:
    given: Sequence[datetime | None] = options.times(sources) or [None] * len(sources)
    points: list[Backup] = []
    with common.repository() as repository:
        for source, time in zip(sources, given, strict=True):
            of_stream = options.of_stream(repository, time, points[-1] if points else None)
            try:
                points.append(_import_one(common, repository, source, of_stream))
            except PitrError as error:
                if points:
                    error.add_note(f"{len(points)} of {len(sources)} files were imported before {source}")
                raise
    return points


def _import_one(common: Common, repository: Repository, name: str, options: ImportOptions) -> Backup:
    if name == "-" and sys.stdin.isatty():
        raise UsageError("cannot read a stream from a terminal", "Pipe it in, or name a file.")
    with (
        open_input(name, sys.stdin.buffer) as stream,
        showing(common.out, f"import {name}") as progress,
    ):
        backup = import_stream(repository, stream, options, progress=progress)
    if backup.mode is not Mode.IMPORTED:
        common.out.notify(
            f"a blob of the point of {times.for_people(backup.point)}, VM {backup.vm.name}, is in the repository again"
        )
    for stored in backup.streams:
        if stored.note:
            common.out.notify(f"note on {stored.name}: {stored.note}")
    return backup


def _import_files(
    common: Common, program: str, sources: Sequence[str], options: _ImportArguments
) -> list[Backup]:
    if options.onto is not None or options.stream_format is not None:
        raise UsageError(f"--onto and --format go with streams, not with {program!r}")
    if options.vm is None:
        raise UsageError("the files do not name their VM", "Name it with --vm.")

    def done(backup: Backup) -> None:
        common.out.notify(f"imported the point of {times.for_people(backup.point)}")

    with common.repository() as repository, showing(common.out, f"import {program}") as progress:
        run = FileImport(repository, options.vm, done, options.workers, progress)
        if program == "qcow2":
            paths = [Path(source) for source in sources]
            return import_qcow2(run, paths, disk=options.disk, given_times=options.times(sources))
        if len(sources) != 1 or options.disk is not None or options.time:
            raise UsageError(
                "virtnbdbackup's files name their disks and times",
                "Name one folder, and neither --disk nor --time.",
            )
        return import_virtnbdbackup(run, Path(sources[0]))
