# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell when a clock makes the label of a new point wrong."""

from __future__ import annotations

from datetime import timedelta

from pitr import times
from pitr.jobs.point_order import CLOCK_TOLERANCE
from pitr.model import Backup
from pitr.reporting import Notify
from pitr.repository import Repository
from pitr.text import printable


def warn_of_clocks(repository: Repository, backup: Backup, skew: timedelta, notify: Notify) -> None:
    """Notify if the engine's clock is ahead of this machine's by `skew`, or labelled the new point before an older one.

    A negative `skew` means that it is behind.
    """
    vm = printable(backup.vm.name)
    difference = skew_in_words(skew)
    if difference is not None:
        notify(
            f"VM {vm}: {difference}, and it labels the point {times.for_people(backup.point)}. Synchronize both "
            "clocks by NTP"
        )
    older = [
        other
        for other in repository.catalog_of_vm(backup.vm.id).points(backup.vm.id)
        if other.backup_id != backup.backup_id and other.point - backup.point >= CLOCK_TOLERANCE
    ]
    if older:
        parent = next((other for other in older if other.backup_id == backup.parent_id), older[0])
        notify(
            f"VM {vm}: the engine's clock was set back or was wrong: the new point is labelled "
            f"{times.for_people(backup.point)}, before the older point of {times.for_people(parent.point)} (backup "
            f"{parent.backup_id}). --at goes by the labels; --point names a point without them"
        )


def skew_in_words(skew: timedelta) -> str | None:
    """Describe by how much the engine's clock is ahead of this machine's; None if it is a matter of seconds."""
    if abs(skew) < CLOCK_TOLERANCE:
        return None
    order = "ahead of" if skew > timedelta() else "behind"
    return f"the engine's clock is {times.duration(abs(skew).total_seconds())} {order} this machine's clock"
