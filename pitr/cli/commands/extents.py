# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr extents`."""

from __future__ import annotations

from pitr.cli import named_point, point_options
from pitr.cli.display import tables
from pitr.cli.options import (
    AtOption,
    Common,
    OnlyDiskOption,
    PointOption,
    PointOrVMArgument,
    with_common,
)
from pitr.jobs import find
from pitr.jobs.point_extents import ranges


@with_common()
def extents(
    common: Common,
    name: PointOrVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    disk: OnlyDiskOption = None,
) -> None:
    """Show which backup each range of a disk comes from.

    Examples: pitr extents 1c2d3e4f --disk system; pitr extents web1 --at 2020-06-30T22:00
    """
    asked = point_options.at_most_one(at, point)
    with common.repository() as repository:
        backup = named_point.point_or_newest(repository, name, asked, common.out)
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
