# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr list`, `pitr show` and `pitr extents`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, OnlyDiskOption, with_common
from pitr.jobs.documents import point_and_chain, point_document, points_document, points_of_vm

if TYPE_CHECKING:
    from pitr.jobs.point_extents import Range


@with_common()
def list_points(
    common: Common,
    vm: Annotated[str | None, typer.Argument(metavar="VM", help="Name or id; left out: all VMs.")] = None,
) -> None:
    """List the points in time that can be restored, newest first.

    On a narrow terminal columns are left out and long names cut: into a pipe, and with --output json, goes everything.

    Example: pitr list web1
    """
    with common.repository() as repository:
        if common.out.json:
            common.out.document(points_document(repository, vm))
            return
        points, proven = points_of_vm(repository, vm)
    from pitr.cli.display import tables

    common.out.show(tables.points(points, proven))


@with_common()
def show(
    common: Common,
    point: Annotated[str, typer.Argument(metavar="POINT", help="A backup id, or the beginning of one.")],
) -> None:
    """Show one point: its disks, times, checkpoint and chain.

    Example: pitr show 1c2d3e4f
    """
    with common.repository() as repository:
        if common.out.json:
            common.out.document(point_document(repository, point))
            return
        backup, chain, proven = point_and_chain(repository, point)
        elsewhere = {stream.stream_id for stream in backup.streams if not repository.is_here(stream)}
    from pitr.cli.display import tables

    common.out.show(tables.one_point(backup, chain, elsewhere))
    if proven is not None:
        common.out.show(f"Last rehearsed: {tables.proven_text(proven)}")


@with_common()
def extents(
    common: Common,
    point: Annotated[str, typer.Argument(metavar="POINT", help="A backup id, or the beginning of one.")],
    disk: OnlyDiskOption = None,
) -> None:
    """Show which backup each range of a disk at a point comes from.

    Example: pitr extents 1c2d3e4f --disk system
    """
    from pitr.jobs import find
    from pitr.jobs.point_extents import ranges

    with common.repository() as repository:
        backup = find.point_with_id(repository, point).backup
        stream = find.stream_of(backup, disk)
        found = ranges(repository, backup, stream)
    if common.out.json:
        document = {
            "disk_id": stream.disk_id,
            "size": stream.size,
            "extents": [_document(one) for one in found],
        }
        common.out.document(document)
        return
    from pitr.cli.display import tables
    from pitr.units import human_size

    common.out.show(
        tables.table(
            ("Start", "Length", "", "State", "From backup"),
            (
                (
                    str(one.start),
                    str(one.length),
                    human_size(one.length),
                    "zero" if one.zero else "data",
                    one.backup_id or "never written",
                )
                for one in found
            ),
            right=("Start", "Length", ""),
            drop=("", "Length"),
            least={"From backup": ("begin", len("never written"))},
        )
    )


def _document(one: Range) -> dict[str, object]:
    return {"start": one.start, "length": one.length, "zero": one.zero, "backup_id": one.backup_id}
