# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the space that a planned restore needs with the free space of its targets."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.jobs.restore.outcome import TargetOutcome
from pitr.jobs.restore.restored import Restored
from pitr.text import printable
from pitr.units import human_size


def short_of_space(outcome: TargetOutcome, planned: Sequence[Restored]) -> list[str]:
    """Return a warning for each storage domain or file system that has less free space than the disks need."""
    needed: dict[tuple[str | None, int], int] = {}
    for disk in planned:
        place = outcome.places[disk.disk_id]
        if place.available is not None:
            key = (place.storage_domain, place.available)
            needed[key] = needed.get(key, 0) + (disk.bytes_written if place.sparse else disk.size)
    return [
        f"{f'storage domain {printable(domain)}' if domain is not None else 'the file system'} has only "
        f"{human_size(available)} free, and the restored disks need {human_size(bytes_needed)}"
        for (domain, available), bytes_needed in needed.items()
        if bytes_needed > available
    ]
