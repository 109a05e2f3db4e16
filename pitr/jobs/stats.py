# SPDX-License-Identifier: GPL-2.0-or-later
"""How much a repository stores, how it grows, when it is full, and what a prune would free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pitr import times
from pitr.jobs.facts import facts_of_vm
from pitr.jobs.upkeep import prune, unreferenced
from pitr.jobs.upkeep.retention import Retention
from pitr.model import VMName
from pitr.repository import Repository
from pitr.repository.catalog import totals
from pitr.repository.catalog.totals import Totals

#: Growth is measured over this time, or over the time since the first point if that is shorter.
GROWTH_OVER = timedelta(days=30)
#: Less is too short to tell the growth of a day.
_SHORTEST = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class VMStats:
    """The figures of one VM. `growth_bytes_per_day` is None if its points are too young to tell.

    `freed_bytes`: what a prune with the given rules would free; None without rules.
    """

    totals: Totals
    growth_bytes_per_day: int | None
    freed_bytes: int | None

    @property
    def ratio(self) -> float | None:
        """Stored bytes for each byte of data; None without data."""
        return ratio_of(self.totals.stored_bytes, self.totals.data_bytes)


@dataclass(frozen=True, slots=True)
class Stats:
    """The figures of some or all VMs of a repository. `all_growth_bytes_per_day` is that of all its VMs.

    `unreferenced_bytes`: what prune would free of interrupted runs; None unless the keep rules are given. `free_bytes`
    and `capacity_bytes` are of the file system; None for a bucket.
    """

    vms: tuple[VMStats, ...]
    all_growth_bytes_per_day: int | None
    unreferenced_bytes: int | None
    free_bytes: int | None
    capacity_bytes: int | None

    @property
    def growth_bytes_per_day(self) -> int | None:
        """The sum of the VMs' growth; None if it cannot be told for any of them."""
        return _sum_of_known(vm.growth_bytes_per_day for vm in self.vms)

    @property
    def freed_bytes(self) -> int | None:
        """What a prune with the given rules would free; None without rules."""
        return _sum_of_known(vm.freed_bytes for vm in self.vms)

    @property
    def full_in_days(self) -> float | None:
        """After how many days the file system is full if all goes on as before and nothing is removed, or None."""
        growth = self.all_growth_bytes_per_day
        if self.free_bytes is None or not growth:
            return None
        return self.free_bytes / growth


def _sum_of_known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def ratio_of(stored: int, data: int) -> float | None:
    """Return stored bytes for each byte of data; None without data."""
    return stored / data if data else None


def stats(
    repository: Repository, vms: Sequence[VMName], retention: Retention | None, now: datetime | None = None
) -> Stats:
    """Return the figures of these VMs; of all if there are none. Raises RepositoryError."""
    now = now or times.now()
    since = now - GROWTH_OVER
    catalog = repository.catalog
    every = totals.of_vms(catalog, since)
    ids = {vm.id for vm in vms}
    found = [each for each in every if not ids or each.vm.id in ids]
    freed = _freed(repository, [each.vm for each in found], retention)
    usage = shutil.disk_usage(repository.location) if isinstance(repository.location, Path) else None
    return Stats(
        tuple(VMStats(each, _growth(each, now), freed.get(each.vm.id)) for each in found),
        _sum_of_known(_growth(each, now) for each in every),
        _unreferenced_bytes(repository, now) if retention is not None else None,
        usage.free if usage is not None else None,
        usage.total if usage is not None else None,
    )


def _growth(totals: Totals, now: datetime) -> int | None:
    """Return the stored bytes a day. The first point is the start, not growth: it holds the VM itself."""
    span = min(GROWTH_OVER, now - totals.first)
    if span < _SHORTEST or totals.points < 2:
        return None
    start = totals.first_bytes if now - totals.first <= GROWTH_OVER else 0
    return round((totals.recent_bytes - start) / (span / timedelta(days=1)))


def _unreferenced_bytes(repository: Repository, now: datetime) -> int:
    return sum(
        repository.store.size(name)
        for name in unreferenced.of_all(repository, repository.catalog, now - prune.GRACE)
    )


def _freed(repository: Repository, vms: Sequence[VMName], retention: Retention | None) -> dict[str, int]:
    """Return the bytes of the blobs that a prune would remove, by VM id."""
    if retention is None:
        return {}
    freed = {}
    for vm in vms:
        points = repository.catalog.points(vm.id)
        kept = prune.kept_with_facts(points, facts_of_vm(repository, vm.id), retention)
        freed[vm.id] = sum(backup.stored_bytes for backup in points if backup.backup_id not in kept)
    return freed
