# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr list` and `pitr show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pitr.cli import named_point, point_options
from pitr.cli.display import tables
from pitr.cli.options import (
    AnyVMArgument,
    AtOption,
    Common,
    PointOption,
    PointOrVMArgument,
    with_common,
)
from pitr.errors import NoSuchError
from pitr.jobs import asked_time, holds, unusual
from pitr.jobs.boot import last as last_boot
from pitr.jobs.documents import (
    ListedPart,
    point_and_chain,
    point_document,
    points_document,
    points_of_vm,
    removed_document,
    removed_points_of_vm,
)
from pitr.jobs.facts import NO_FACTS
from pitr.jobs.known_damage import damage_of
from pitr.jobs.shared import shared_of
from pitr.repository import drills
from pitr.repository.drills import LastBoot
from pitr.system.replace_file import replace_file
from pitr.system.target_path import new_file
from pitr.text import named, printable
from pitr.units import human_size

LastOption = Annotated[
    int | None, typer.Option("--last", metavar="N", min=1, help="List only the newest N points.")
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="List only points of this time or later; TIME as for --at."),
]
NoteOption = Annotated[bool, typer.Option("--note", help="Show the notes of the points.")]
ScreenshotFileOption = Annotated[
    Path | None,
    typer.Option(
        "--screenshot",
        metavar="FILE.png",
        help="Write the picture of the guest's screen from the last 'pitr drill --boot' to this new file.",
        parser=new_file("--screenshot"),
    ),
]
RemovedOption = Annotated[
    bool,
    typer.Option(
        "--removed", help="List only points that are removed and that 'pitr undo-prune' can take back."
    ),
]


@with_common()
def list_points(
    common: Common,
    vm: AnyVMArgument = None,
    last: LastOption = None,
    since: SinceOption = None,
    note: NoteOption = False,
    removed: RemovedOption = False,
) -> None:
    """List the points you can restore, newest first.

    On a narrow terminal, pitr leaves out columns and shortens long names. Piped output and --output json are never
    shortened.

    Where a removal has a grace time (in a bucket, or after 'pitr init --grace'), --removed lists the points that 'pitr
    prune' and 'pitr forget' removed. 'pitr restore --point' still takes them.

    Examples: pitr list web1; pitr list --last 10 --note; pitr list web1 --since yesterday; pitr list --removed
    """
    part = ListedPart(asked_time.parse(since).earliest if since is not None else None, last)
    with common.repository() as repository:
        if common.out.json:
            document = removed_document if removed else points_document
            common.out.document(document(repository, vm, part))
            return
        points, facts = (removed_points_of_vm if removed else points_of_vm)(repository, vm, part)
        shown = tables.points(points, facts, notes=note)
    common.out.show(shown)


def _write_screen(booted: LastBoot | None, path: Path) -> None:
    if booted is None or booted.boot.screenshot is None:
        raise NoSuchError("the point has no picture of its screen", "Run 'pitr drill --boot' on it first.")
    replace_file(path, booted.boot.screenshot, 0o644)


@with_common()
def show(
    common: Common,
    name: PointOrVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    screenshot: ScreenshotFileOption = None,
) -> None:
    """Show one point: its disks, times, checkpoint and chain.

    Examples: pitr show 1c2d3e4f; pitr show web1 --at 2020-06-30T22:00; pitr show web1 --screenshot web1.png
    """
    asked = point_options.at_most_one(at, point)
    with common.repository() as repository:
        chosen = named_point.point_or_newest(repository, name, asked, common.out)
        booted = drills.last_boot(repository.store, chosen.vm.id, chosen.backup_id)
        if screenshot is not None:
            _write_screen(booted, screenshot)
        if common.out.json:
            document = point_document(repository, chosen.backup_id)
            if booted is not None:
                document["boot"] = last_boot.document(booted)
            common.out.document(document)
            return
        backup, chain, facts = point_and_chain(repository, chosen.backup_id)
        own = facts.get(backup.backup_id, NO_FACTS)
        damage = damage_of(repository, own.damage)
        shared = [(stream, each) for stream in backup.streams for each in shared_of(repository, stream)]
        external = {stream.stream_id for stream in backup.streams if not repository.is_here(stream)}
    common.out.show(tables.one_point(backup, chain, external, facts))
    for stream, each in shared:
        owner = f" of VM {named(each.vm.name, each.vm.id)}" if each.vm is not None else ""
        common.out.show(
            f"Disk {printable(stream.name)} shares {human_size(each.bytes)} with disk {each.disk_id}{owner}."
        )
    if own.marks.hold is not None:
        common.out.show(f"The point is {holds.in_words(own.marks.hold)}.")
    if own.marks.note:
        common.out.show(f"Note: {printable(own.marks.note)}")
    if own.proven is not None:
        common.out.show(f"Last drill: {tables.proven_text(own.proven)}")
    if booted is not None:
        common.out.show(f"Last {last_boot.in_words(booted)}")
    if own.unusual:
        common.out.show(f"UNUSUAL: {unusual.words(own.unusual)}")
    if damage:
        common.out.show(
            "DAMAGED: pitr cannot restore this point completely. 'pitr verify' reads the data again.",
            tables.damage(damage),
        )
