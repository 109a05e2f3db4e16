# SPDX-License-Identifier: GPL-2.0-or-later
"""How far other sites are behind: from what the last copies noted in the repository. The sites are not asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pitr import times
from pitr.jobs.status.vm_status import State
from pitr.repository import Repository, copies
from pitr.repository.catalog import changes, overview
from pitr.repository.copies import KnownCopy
from pitr.text import counted


@dataclass(frozen=True, slots=True)
class ExpectedSite:
    """A site of the configuration: its name, its place, and how old a point may be that it lacks."""

    name: str
    place: str
    max_behind: timedelta


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """What is known of a site at a time.

    `name` is that of the configuration, or None. `copied` is when the last copy ended that left nothing out of some VM;
    None if there was none. `behind` counts the points that the site lacks, `oldest` is the oldest of them. VMs that
    were never copied there do not count.
    """

    name: str | None
    place: str
    repository_id: str | None
    copied: datetime | None
    behind: int
    oldest: datetime | None
    state: State
    reasons: tuple[str, ...]


def sites_of(repository: Repository, expected: Sequence[ExpectedSite], now: datetime) -> list[SiteStatus]:
    """Return the status of all sites, configured or not, by place. Raises RepositoryError."""
    known = {copy.place: copy for copy in copies.known(repository.store)}
    configured = {site.place: site for site in expected}
    places = sorted(known.keys() | configured.keys())
    return [_status(repository, place, known.get(place), configured.get(place), now) for place in places]


def _status(
    repository: Repository, place: str, copy: KnownCopy | None, site: ExpectedSite | None, now: datetime
) -> SiteStatus:
    lacking = sorted(_lacking(repository, copy)) if copy is not None else []
    reason = None
    if copy is None:
        reason = f"nothing was copied to site {site.name if site is not None else place} yet"
    elif site is not None and lacking and now - lacking[0] > site.max_behind:
        age, allowed = (times.duration(each.total_seconds()) for each in (now - lacking[0], site.max_behind))
        what = counted(len(lacking), "point")
        reason = f"site {site.name} lacks {what}, the oldest {age} old, and {allowed} are allowed"
    return SiteStatus(
        name=site.name if site is not None else None,
        place=place,
        repository_id=copy.repository_id if copy is not None else None,
        copied=copy.ended if copy is not None else None,
        behind=len(lacking),
        oldest=lacking[0] if lacking else None,
        state=State.WARNING if reason is not None else State.OK,
        reasons=(reason,) if reason is not None else (),
    )


def _lacking(repository: Repository, copy: KnownCopy) -> Iterator[datetime]:
    """Yield the times of the points that are newer than what was copied of their VM."""
    catalog = repository.catalog_by_number
    counts = overview.point_counts(catalog)
    for vm_id, newest in copy.vms.items():
        count = 1
        while count and vm_id in counts:
            found = [times.from_text(each.point) for each in changes.newest(catalog, vm_id, count)]
            newer = [time for time in found if time > newest]
            if len(newer) < count or count >= counts[vm_id]:
                yield from newer
                break
            # Most VMs have none.
            count = min(counts[vm_id], 32 * count)
