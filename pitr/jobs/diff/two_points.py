# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the disks of a VM at two of its points.

pitr compares the stored data (pitr/endpoints/points/difference.py). Ranges are equal if they read the same frames,
frames of equal digest, or zeroes at both points. On demand, pitr also reads the ranges that differ by this. Beyond its
end, a disk reads as zero, so growth alone is no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.points.difference import Difference, compare
from pitr.endpoints.points.exact_difference import read_difference
from pitr.errors import NoSuchDisk, UsageError
from pitr.extents import ExtentMap
from pitr.jobs import find
from pitr.jobs.asked_time import AskedTime
from pitr.jobs.known_damage import remembering
from pitr.jobs.lineage import only_of_family
from pitr.model import Backup, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository, successions
from pitr.repository.chain import ResolvedChain, resolve_chain

RangeState = Literal["same", "changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class DiskDiff:
    """One disk at two points. A size is None if the point does not hold the disk; `note` says why, if known.

    `changes`: the ranges that differ, joined, as data or zero at the later point. `new_bytes` of their data were zero
    at the earlier point. `previous_disk_id` is the disk's id at the earlier point, if a restore put a new disk in its
    place since. All numbers are bytes.
    """

    disk_id: str
    name: str
    size_before: int | None
    size_after: int | None
    changes: ExtentMap
    new_bytes: int
    note: str | None = None
    previous_disk_id: str | None = None

    @property
    def state(self) -> RangeState:
        if self.size_before is None:
            return "added"
        if self.size_after is None:
            return "removed"
        return "changed" if len(self.changes) or self.size_before != self.size_after else "same"

    @property
    def data_bytes(self) -> int:
        return self.changes.data_bytes

    @property
    def zero_bytes(self) -> int:
        return self.changes.zero_bytes

    @property
    def changed_bytes(self) -> int:
        return self.data_bytes + self.zero_bytes

    @property
    def rewritten_bytes(self) -> int:
        return self.data_bytes - self.new_bytes


Look = Callable[[DiskDiff, ResolvedChain], None]
"""Called with each disk of the later point, and its resolved chain."""


def choose(
    repository: Repository, vm_name: str | None, at: Sequence[AskedTime], points: Sequence[str]
) -> tuple[Backup, Backup]:
    """Return the two points of one VM for these times and point ids, the earlier point first.

    Raises UsageError, NoSuchVM, NoSuchPoint, and StoredDamage as a restore does.
    """
    if len(at) + len(points) != 2:
        raise UsageError(
            "diff needs two points",
            "Name each with --at TIME or --point ID: pitr diff web1 --at 2020-06-30T10:00 --at now.",
        )
    chosen: list[Backup] = []
    for point in points:
        backup = find.point_of(repository, vm_name, point, None).backup
        if chosen and backup.vm.id != chosen[0].vm.id:
            raise UsageError("the two points belong to different VMs", "Name two points of one VM.")
        chosen.append(backup)
    for time in at:
        # With a time and an id, the time applies to the VM of the id's point.
        vm = chosen[0].vm.id if chosen else vm_name
        chosen.append(find.point_of(repository, vm, None, time).backup)
    first, second = chosen
    if first.point == second.point and first != second:
        # Two points can have the same time. The catalog lists them by lineage, newest first.
        order = [backup.backup_id for backup in repository.catalog_of_vm(first.vm.id).points(first.vm.id)]
        later_first = order.index(first.backup_id) < order.index(second.backup_id)
        return (second, first) if later_first else (first, second)
    if first.point > second.point:
        first, second = second, first
    # A clock that was set back labels a point before the one that it is based on.
    catalog = repository.catalog_of_vm(first.vm.id)
    return (second, first) if second in find.ancestry(catalog, first)[:-1] else (first, second)


def diff(
    repository: Repository,
    before: Backup,
    after: Backup,
    *,
    disks: Sequence[str] = (),
    exact: bool = False,
    workers: int = DEFAULT_WORKERS,
    look: Look | None = None,
    progress: Progress | None = None,
) -> list[DiskDiff]:
    """Compare the disks of two points of one VM (all if `disks` is empty), those of the later point first.

    `exact`: also read the ranges that differ by the indexes, with `workers` threads, and keep only blocks that differ.
    Raises StoredDamage if a chain is incomplete or `exact` reads damaged data; NoSuchDisk; BusyError.
    """
    vm: VMName = after.vm
    chosen = _pairs(repository, before, after, disks)
    total = sum(_size(old) + _size(new) for old, new in chosen)
    diffs: list[DiskDiff] = []
    done = 0

    def advance(read: int, more: int) -> None:
        nonlocal done, total
        done += read
        total += more
        if progress is not None:
            progress(done, total)

    with repository.reading_vm(vm), remembering(repository, vm.id, "diff"):
        for old, new in chosen:
            diffs.append(
                _disk_diff(repository, (before, old), (after, new), workers if exact else 0, look, advance)
            )
            advance(_size(old) + _size(new), 0)
    return diffs


def _pairs(
    repository: Repository, before: Backup, after: Backup, disks: Sequence[str]
) -> list[tuple[Stream | None, Stream | None]]:
    """Return the streams of each disk at the two points, of all disks if `disks` is empty.

    A disk that a restore put in another's place makes a pair with that one.
    """
    known = successions.of_vm(repository.store, after.vm.id)
    pairs: list[tuple[Stream | None, Stream | None]] = []
    paired: set[str] = set()
    for new in after.streams:
        old = before.stream_of(new.disk_id) or only_of_family(known, before, new.disk_id)
        if old is not None and old.disk_id != new.disk_id and after.stream_of(old.disk_id) is not None:
            # The point holds both: the old disk was attached again.
            old = None
        if old is not None:
            paired.add(old.disk_id)
        pairs.append((old, new))
    pairs += [(old, None) for old in before.streams if old.disk_id not in paired]
    if not disks:
        return pairs
    chosen: dict[str, None] = {}
    for disk in disks:
        missing: list[NoSuchDisk] = []
        for backup in (after, before):
            try:
                streams = find.streams_of(backup, [disk], repository)
            except NoSuchDisk as error:
                missing.append(error)
            else:
                chosen |= dict.fromkeys(stream.stream_id for stream in streams)
        if len(missing) == 2:
            raise missing[0]
    return [pair for pair in pairs if any(stream and stream.stream_id in chosen for stream in pair)]


def _size(stream: Stream | None) -> int:
    return stream.size if stream is not None else 0


def _disk_diff(
    repository: Repository,
    before: tuple[Backup, Stream | None],
    after: tuple[Backup, Stream | None],
    workers: int,
    look: Look | None,
    advance: Callable[[int, int], None],
) -> DiskDiff:
    """Compare one disk. With `workers`, also read the ranges that differ by the indexes.

    `advance` gets the bytes read and the bytes added to the total.
    """
    (earlier_point, old), (later_point, new) = before, after
    if new is None:
        if old is None:
            raise RuntimeError("neither point holds the disk")
        note = _left_out(later_point, old.disk_id)
        return DiskDiff(old.disk_id, old.name, old.size, None, ExtentMap.of([]), 0, note)
    exact = workers > 0
    resolved = resolve_chain(repository, later_point, new, with_frames=exact)
    if old is not None and old.stream_id == new.stream_id:
        disk = DiskDiff(new.disk_id, new.name, old.size, new.size, ExtentMap.of([]), 0)
    else:
        earlier = (
            resolve_chain(repository, earlier_point, old, with_frames=exact) if old is not None else None
        )
        difference = compare(repository, earlier, resolved)
        if exact:
            advance(0, int(difference.length.sum()))
            difference = read_difference(
                repository, difference, earlier, resolved, lambda read: advance(read, 0), workers=workers
            )
        del earlier
        disk = DiskDiff(
            new.disk_id,
            new.name,
            old.size if old is not None else None,
            new.size,
            *_changes(difference),
            None if old is not None else _left_out(earlier_point, new.disk_id),
            old.disk_id if old is not None and old.disk_id != new.disk_id else None,
        )
    if look is not None:
        look(disk, resolved)
    return disk


def _changes(difference: Difference) -> tuple[ExtentMap, int]:
    """Return the ranges whose content differs, and the bytes that are data now and were zero before."""
    content = ~(difference.zero & difference.was_zero)
    changes = ExtentMap(difference.start[content], difference.length[content], difference.zero[content])
    new = difference.was_zero & ~difference.zero
    return changes.merged(), int(difference.length[new].sum())


def _left_out(backup: Backup, disk_id: str) -> str | None:
    """Return why a point does not hold a disk, if the record says so."""
    reason = next((disk.reason for disk in backup.left_out if disk.disk_id == disk_id), None)
    return f"left out of the backup: {reason}" if reason is not None else None
