# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognize points that changed much more than their VM usually does, or whose data hardly compresses.

A point is compared with earlier points of the same kind: with their median, and with their spread around it, on a scale
of logarithms, because changes vary by factors. What comes again, such as a weekly job, is usual.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from math import log
from typing import Final, Literal

from pitr import times
from pitr.model import Backup, Kind
from pitr.repository.catalog import Catalog
from pitr.repository.catalog.changes import Change, of_kind_between, oldest_first
from pitr.units import human_size, in_unit_of

What = Literal["changed", "data", "ratio", "content", "names"]

#: A point is compared with so many earlier points of its kind.
_FEWEST, _MOST = 7, 30
#: Smaller changes are never unusual: a share of the disks' size, or the smallest change that an engine reports.
_SMALL_SHARE, _SMALLEST = 0.01, 64 << 10
#: How many spreads beyond the median is unusual, and how much more so with few points, whose spread is a rough guess.
_SPREADS, _MORE_WITH_FEW = 4.0, 4.0
#: The spreads of VMs that change the same amount each night, in logarithms and in ratios.
_LEAST_SPREAD, _LEAST_RATIO_SPREAD = 0.3, 0.03
#: The median deviation of a normal distribution is so much smaller than its standard deviation.
_DEVIATION: Final = 1.4826
#: Encrypted data has a ratio of stored to original bytes of 1; compressed videos have 0.98, and text has 0.2 to 0.4.
_HARDLY_COMPRESSIBLE, _RATIO_STEP = 0.85, 0.25
#: What came before as well is usual, if it was not only just now: the nights after an attack are not usual for it.
_AGAIN_WITHIN = timedelta(days=100)
_JUST_NOW_S, _JUST_NOW_GAPS = 20 * 3600.0, 2.5


def median(values: Iterable[float]) -> float:
    """Return the median of at least one value. (The standard library's takes longer to load than a status.)"""
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True, slots=True)
class Unusual:
    """A value of a point and the usual one.

    `what`: `changed` bytes, `data` bytes of a full, or `ratio` of stored to data; from a check of the files, `content`
    (the share of files that do not fit their type) or `names` (the number of names that attackers' programs give).
    """

    what: What
    value: float
    usual: float


def of_vms(catalog: Catalog, vm_id: str | None) -> dict[str, tuple[Unusual, ...]]:
    """Return what is unusual about the points of a VM (None: of all VMs), by backup id. Raises RepositoryError."""
    found: dict[str, tuple[Unusual, ...]] = {}
    for each in [vm.id for vm in catalog.vms()] if vm_id is None else [vm_id]:
        found |= of_history(oldest_first(catalog, each))
    return found


def of_history(changes: Iterable[Change]) -> dict[str, tuple[Unusual, ...]]:
    """Return what is unusual about the points of one VM, by backup id. `changes` are all its points, oldest first."""
    found: dict[str, tuple[Unusual, ...]] = {}
    seen: dict[str, list[Change]] = defaultdict(list)
    windows: dict[str, _Window] = defaultdict(_Window)
    previous: Change | None = None
    for change in changes:
        if change.kind == Kind.SYNTHETIC:
            continue
        earlier, window = seen[change.kind], windows[change.kind]
        if previous is not None and len(earlier) >= _FEWEST and _may_be_unusual(change, window.median):
            point = _Point(change, previous, earlier[-_MOST:])
            unusual = _compared(point, partial(_since, earlier))
            if unusual:
                found[change.backup_id] = unusual
        earlier.append(change)
        window.add(change)
        previous = change
    return found


def of_newest(catalog: Catalog, vm_id: str, changes: Sequence[Change]) -> tuple[Unusual, ...]:
    """Return what is unusual about the first of a VM's newest points, `changes`, newest first.

    `changes` has all points, or more than a point is compared with. Reads the catalog only if they do not decide.
    Raises RepositoryError.
    """
    if not changes or changes[0].kind == Kind.SYNTHETIC:
        return ()
    newest = changes[0]

    def since(time: str) -> list[Change]:
        of_kind = of_kind_between(catalog, vm_id, newest.kind, time, newest.point)
        return [change for change in reversed(of_kind) if change.backup_id != newest.backup_id]

    recent = [change for change in changes[1:] if change.kind == newest.kind][:_MOST]
    if len(recent) < _MOST < len(changes):
        # The others are of another kind: fulls are rare among the newest points.
        recent = since("")[-_MOST:][::-1]
    if len(recent) < _FEWEST or not _may_be_unusual(newest, sorted(map(_changed, recent))[len(recent) // 2]):
        return ()
    return _compared(_Point(newest, changes[1], recent[::-1]), since)


def merged(
    one: Mapping[str, tuple[Unusual, ...]], other: Mapping[str, tuple[Unusual, ...]]
) -> dict[str, tuple[Unusual, ...]]:
    """Return what is unusual by either of two measures, by backup id."""
    return {
        backup_id: one.get(backup_id, ()) + other.get(backup_id, ())
        for backup_id in one.keys() | other.keys()
    }


class _Window:
    """The sorted values of the newest earlier points."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._values: list[int] = []

    def add(self, change: Change) -> None:
        value = _changed(change)
        self._order.append(value)
        insort(self._values, value)
        if len(self._order) > _MOST:
            del self._values[bisect_left(self._values, self._order.popleft())]

    @property
    def median(self) -> int:
        return self._values[len(self._values) // 2]


@dataclass(frozen=True, slots=True)
class _Point:
    """A point, the point before it, and the newest earlier points of its kind, oldest first."""

    change: Change
    previous: Change
    recent: Sequence[Change]


def _may_be_unusual(change: Change, usual: int) -> bool:
    """Return False if the point is certainly usual, which is quickly known of most points."""
    return change.stored >= _HARDLY_COMPRESSIBLE * change.data or 10 * _changed(change) > 19 * usual


def _changed(change: Change) -> int:
    """Return the bytes that changed; for a full, whose zeroes say nothing, the bytes of data."""
    return change.data if change.kind == Kind.FULL else change.data + change.zero


def _since(earlier: Sequence[Change], time: str) -> Sequence[Change]:
    return earlier[bisect_left(earlier, time, key=lambda change: change.point) :]


def _compared(point: _Point, since: Callable[[str], Sequence[Change]]) -> tuple[Unusual, ...]:
    """Compare a point with those before it. `since` returns all earlier points of its kind since a time."""
    change = point.change
    small = max(_SMALLEST, _SMALL_SHARE * change.size)
    if _changed(change) < small:
        return ()
    changed = _much_changed(point, small)
    ratio = _hardly_compressible(point, small)
    if changed is None and ratio is None:
        return ()
    before = _before(point, since)
    # Whatever came before as well is usual, unless the other value did not.
    changed_again = any(2 * _changed(each) >= _changed(change) for each in before)
    ratio_again = any(
        each.data >= small and each.stored >= (_ratio(change) - 0.1) * each.data for each in before
    )
    if (changed is None or changed_again) and (ratio is None or ratio_again):
        return ()
    return tuple(value for value in (changed, ratio) if value is not None)


def _much_changed(point: _Point, small: float) -> Unusual | None:
    full = point.change.kind == Kind.FULL
    value = _changed(point.change)
    values = [_changed(change) for change in point.recent]
    usual = median(values)
    # Changes below `small` are much the same, whatever their factors. A longer pause lets more changes gather.
    base = small / 2
    scaled = [log(each + base) for each in values]
    beyond = log(value / (1.0 if full else _pauses(point)) + base) - median(scaled)
    if beyond <= _spreads(len(values)) * _spread(scaled, _LEAST_SPREAD):
        return None
    return Unusual("data" if full else "changed", value, round(usual))


def _hardly_compressible(point: _Point, small: float) -> Unusual | None:
    # The ratios of a few blocks are chance.
    enough = [change for change in point.recent if change.data >= small / 8]
    data = point.change.data
    if len(enough) < _FEWEST or data < small or 2 * data < median(each.data for each in enough):
        return None
    value = _ratio(point.change)
    ratios = [_ratio(change) for change in enough]
    usual = median(ratios)
    step = max(_RATIO_STEP, _spreads(len(ratios)) * _spread(ratios, _LEAST_RATIO_SPREAD))
    if value < _HARDLY_COMPRESSIBLE or value - usual < step:
        return None
    return Unusual("ratio", round(value, 4), round(usual, 4))


def _ratio(change: Change) -> float:
    return change.stored / change.data if change.data else 0.0


def _spreads(count: int) -> float:
    return _SPREADS * (1 + _MORE_WITH_FEW / count)


def _spread(values: Sequence[float], least: float) -> float:
    middle = median(values)
    return max(least, _DEVIATION * median(abs(value - middle) for value in values))


def _pauses(point: _Point) -> float:
    """Return by which factor the time since the point before is longer than usual; at least 1."""
    gap, usual = _gap_s(point.previous, point.change), _usual_gap_s(point.recent)
    return max(1.0, gap / usual) if usual > 0 else 1.0


def _usual_gap_s(recent: Sequence[Change]) -> float:
    return median(_gap_s(one, other) for one, other in pairwise(recent))


def _gap_s(one: Change, other: Change) -> float:
    return (times.from_text(other.point) - times.from_text(one.point)).total_seconds()


def _before(point: _Point, since: Callable[[str], Sequence[Change]]) -> list[Change]:
    """Return the points that tell what came before as well, without those of the last nights."""
    time = times.from_text(point.change.point)
    just_now = timedelta(seconds=max(_JUST_NOW_S, _JUST_NOW_GAPS * _usual_gap_s(point.recent)))
    until = times.to_sortable(time - just_now)
    return [change for change in since(times.to_sortable(time - _AGAIN_WITHIN)) if change.point < until]


def warnings_of(
    catalog: Catalog, backup: Backup, checked: Mapping[str, tuple[Unusual, ...]] | None = None
) -> list[str]:
    """Return a warning if the point is unusual, with the newest point before it that is not.

    `checked` has what checks of the files found, by backup id. Raises RepositoryError.
    """
    found = merged(of_vms(catalog, backup.vm.id), checked or {})
    if backup.backup_id not in found:
        return []
    warning = f"the point of {times.for_people(backup.point)} is unusual: {words(found[backup.backup_id])}"
    before = next(
        (
            point
            for point in catalog.points(backup.vm.id)
            if point.point < backup.point and point.backup_id not in found
        ),
        None,
    )
    if before is not None:
        time = times.for_people(before.point)
        warning += f" The newest usual point before it is of {time}: --point {before.backup_id}"
    return [warning]


def words(unusual: Sequence[Unusual]) -> str:
    """Return what is unusual about a point as a text: "changed 38 GiB, usually 0.6"."""
    parts = []
    for each in unusual:
        if each.what == "ratio":
            parts.append(f"hardly compressible ({each.value:.2g}, usually {each.usual:.2g}): encryption?")
        elif each.what == "content":
            usual = f"usually {each.usual:.0%}"
            parts.append(f"{each.value:.0%} of the files do not fit their type ({usual}): encryption?")
        elif each.what == "names":
            parts.append(
                f"{each.value:.0f} names of files are those of ransomware (usually {each.usual:.0f})"
            )
        else:
            usual = in_unit_of(round(each.value), round(each.usual))
            value = human_size(round(each.value))
            parts.append(
                f"changed {value}, usually {usual}"
                if each.what == "changed"
                else f"holds {value} of data, usually {usual}"
            )
    return ", and ".join(parts)
