# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pitr import times
from pitr.cli.options import Common, MaxWorkersOption, with_common
from pitr.errors import PitrError, UsageError
from pitr.model import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pitr.endpoints.streams.detect import InputFormat
    from pitr.jobs.imports.stream import ImportOptions
    from pitr.model import Backup
    from pitr.repository import Repository

_STREAMS = ("sparse", "rbd-diff", "virtnbdbackup")
_WORDS = ("virtnbdbackup", "qcow2")


@with_common()
def import_(
    common: Common,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[virtnbdbackup|qcow2] FILE|FOLDER|-...",
            help="Streams, from the oldest to the newest: one that does not say what it stands on stands on the "
            "one before. - is standard input. After 'virtnbdbackup' the folder that it wrote to, after 'qcow2' "
            "images that stand on each other.",
        ),
    ],
    vm: Annotated[
        str | None,
        typer.Option("--vm", metavar="VM", help="Name or id; left out: the VM that the stream names."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option("--disk", metavar="DISK", help="Name or id; left out: the disk that the stream names."),
    ] = None,
    time: Annotated[
        list[str] | None,
        typer.Option(
            "--time", metavar="TIME", help="Time of the point, where the stream has none; one for each FILE."
        ),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto", metavar="ID", help="The point that an incremental stream stands on, if it does not say."
        ),
    ] = None,
    stream_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="|".join(_STREAMS), help="What it has to be; left out: any of these."
        ),
    ] = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Take in backups from elsewhere: they become points in time.

    Streams make points with one disk each: oVirt sparse streams (of pitr, of ovirt-imageio's example), rbd diffs and
    virtnbdbackup's files, with or without zstd around them. A whole folder of virtnbdbackup, and qcow2 images as
    backup_vm.py leaves them, make points with their original times. What a source cannot tell is noted on its
    points (see 'pitr show').

    A blob that 'pitr backup' has piped out comes back the same way: it becomes that very point's again, once its bytes
    are proven to be those that went out.

    Examples: vendor-get 1234 | pitr import -; pitr import --vm web1 --disk system full.diff monday.diff;
    pitr import virtnbdbackup /srv/old/web1 --vm web1
    """
    if stream_format is not None and stream_format not in _STREAMS:
        raise UsageError(f"--format is one of {', '.join(_STREAMS)}, not {stream_format!r}")
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once only")
    workers = common.workers(max_workers)
    if sources[0] in _WORDS and len(sources) > 1:
        if onto is not None or stream_format is not None:
            raise UsageError(f"--onto and --format go with streams, not with {sources[0]!r}")
        _show(common, _migrate(common, sources[0], sources[1:], vm, disk, time or (), workers))
        return
    given = _times(time, sources) if time else [None] * len(sources)
    with common.repository() as repository:
        made: list[Backup] = []
        for source, moment in zip(sources, given, strict=True):
            before = made[-1] if made else None
            chosen = _options(repository, vm, disk, moment, onto, before, stream_format, workers)
            try:
                made.append(_import_one(common, repository, source, chosen))
            except PitrError as error:
                if made:
                    error.add_note(f"{len(made)} of {len(sources)} files were imported before it: {source}")
                raise
            # The next one says itself what it stands on, or stands on this one.
            onto = None
    _show(common, made)


def _times(given: Sequence[str], sources: Sequence[str]) -> list[datetime]:
    """None at all, or one for each file. Raises UsageError."""
    if given and len(given) != len(sources):
        raise UsageError(f"there are {len(sources)} files and {len(given)} times", "Give a --time for each.")
    return [times.parse_at(text) for text in given]


def _options(
    repository: Repository,
    vm: str | None,
    disk: str | None,
    moment: datetime | None,
    onto: str | None,
    before: Backup | None,
    stream_format: str | None,
    workers: int,
) -> ImportOptions:
    from pitr.jobs import find
    from pitr.jobs.imports.stream import ImportOptions

    return ImportOptions(
        vm=vm,
        disk=disk,
        time=moment,
        onto=None if onto is None else find.point_with_id(repository, onto).backup,
        before=before,
        format=cast("InputFormat | None", stream_format),
        workers=workers,
    )


def _import_one(common: Common, repository: Repository, name: str, options: ImportOptions) -> Backup:
    from pitr.cli.display.progress import showing
    from pitr.endpoints.streams.input import open_input
    from pitr.jobs.imports.stream import import_stream

    if name == "-" and sys.stdin.isatty():
        raise UsageError("a stream does not come from a terminal", "Pipe it in, or name a file.")
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


def _migrate(
    common: Common,
    word: str,
    sources: Sequence[str],
    vm: str | None,
    disk: str | None,
    time: Sequence[str],
    workers: int,
) -> list[Backup]:
    from pitr.cli.display.progress import showing
    from pitr.jobs.imports import qcow2, virtnbdbackup

    if vm is None:
        raise UsageError("files do not say which VM they are of", "Name it with --vm.")

    def done(backup: Backup) -> None:
        common.out.notify(f"imported the point of {times.for_people(backup.point)}")

    with common.repository() as repository, showing(common.out, f"import {word}") as progress:
        if word == "qcow2":
            return qcow2.import_qcow2(
                repository,
                [Path(source) for source in sources],
                vm,
                disk=disk,
                given=_times(time, sources),
                workers=workers,
                progress=progress,
                done=done,
            )
        if len(sources) != 1 or disk is not None or time:
            raise UsageError(
                "virtnbdbackup's files tell their disks and times",
                "Name one folder, and neither --disk nor --time.",
            )
        return virtnbdbackup.import_virtnbdbackup(
            repository, Path(sources[0]), vm, workers=workers, progress=progress, done=done
        )


def _show(common: Common, made: list[Backup]) -> None:
    from pitr.cli.display import tables
    from pitr.jobs import documents

    if common.out.json:
        common.out.document({"imported": [documents.point(backup) for backup in made]})
    else:
        common.out.show(tables.points(made))
