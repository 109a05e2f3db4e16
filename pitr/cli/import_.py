# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pitr import times
from pitr.cli.options import Common, with_common
from pitr.errors import PitrError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from pitr.endpoint.detect import StreamFormat
    from pitr.jobs.importing import ImportOptions
    from pitr.model import Backup
    from pitr.repository import Repository

_STREAMS = ("sparse", "rbd-diff", "virtnbdbackup")


@with_common()
def import_(
    common: Common,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|-...",
            help="Streams, from the oldest to the newest: one that does not say what it stands on stands on the "
            "one before. - is standard input.",
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
    max_workers: Annotated[int, typer.Option("--max-workers", min=1, max=64, help="Threads.")] = 4,
) -> None:
    """Take in streams from elsewhere: each becomes a point in time with one disk.

    oVirt sparse streams (of pitr, of ovirt-imageio's example), rbd diffs and virtnbdbackup's files, with or without
    zstd around them. What a stream cannot tell is noted on its point (see 'pitr show').

    Examples: vendor-get 1234 | pitr import -; pitr import --vm web1 --disk system full.diff monday.diff
    """
    if stream_format is not None and stream_format not in _STREAMS:
        raise UsageError(f"--format is one of {', '.join(_STREAMS)}, not {stream_format!r}")
    if time and len(time) != len(sources):
        raise UsageError(f"there are {len(sources)} files and {len(time)} times", "Give a --time for each.")
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once only")
    given = [times.parse_at(text) for text in time] if time else [None] * len(sources)
    with common.repository() as repository:
        made: list[Backup] = []
        for source, moment in zip(sources, given, strict=True):
            before = made[-1] if made else None
            chosen = _options(repository, vm, disk, moment, onto, before, stream_format, max_workers)
            try:
                made.append(_import_one(common, repository, source, chosen))
            except PitrError as error:
                if made:
                    error.add_note(f"{len(made)} of {len(sources)} files were imported before it: {source}")
                raise
            # The next one says itself what it stands on, or stands on this one.
            onto = None
    _show(common, made)


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
    from pitr.jobs import choosing
    from pitr.jobs.importing import ImportOptions

    return ImportOptions(
        vm=vm,
        disk=disk,
        time=moment,
        onto=None if onto is None else choosing.point_named(repository.catalog, onto).backup,
        before=before,
        format=cast("StreamFormat | None", stream_format),
        workers=workers,
    )


def _import_one(common: Common, repository: Repository, name: str, options: ImportOptions) -> Backup:
    from pitr.cli.progress import showing
    from pitr.endpoint.input import open_input
    from pitr.jobs.importing import import_stream

    if name == "-" and sys.stdin.isatty():
        raise UsageError("a stream does not come from a terminal", "Pipe it in, or name a file.")
    with (
        open_input(name, sys.stdin.buffer) as stream,
        showing(common.out, f"import {name}") as progress,
    ):
        backup = import_stream(repository, stream, options, progress=progress)
    for stored in backup.streams:
        if stored.note:
            common.out.notify(f"note on {stored.name}: {stored.note}")
    return backup


def _show(common: Common, made: list[Backup]) -> None:
    from pitr.cli import documents, tables

    if common.out.json:
        common.out.document({"imported": [documents.point(backup) for backup in made]})
    else:
        common.out.show(tables.points(made))
