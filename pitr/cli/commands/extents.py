# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr extents`."""

from __future__ import annotations

from pitr.cli.display import tables
from pitr.cli.options import Common, OnlyDiskOption, PointArgument, with_common
from pitr.jobs import find
from pitr.jobs.point_extents import ranges


@with_common()
def extents(common: Common, point: PointArgument, disk: OnlyDiskOption = None) -> None:
    """Show which backup each range of a disk comes from.

    Example: pitr extents 1c2d3e4f --disk system
    """
    with common.repository() as repository:
        backup = find.point_with_id(repository, point).backup
        stream = find.stream_of(backup, disk, repository)
        resolved = ranges(repository, backup, stream)
    if common.out.json:
        common.out.document(
            {
                "disk_id": stream.disk_id,
                "size": stream.size,
                "extents": [part._asdict() for part in resolved],
            }
        )
    else:
        common.out.show(tables.ranges(resolved))
