# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of all VMs, the worst first, and its JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from pitr import times
from pitr.jobs import documents, unusual, unusual_files
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_good_points
from pitr.jobs.status.collect import known_points
from pitr.jobs.status.expected import ExpectedRuns
from pitr.jobs.status.protection import ProtectionStatus, protection_status
from pitr.jobs.status.sites import ExpectedSite, SiteStatus, sites_of
from pitr.jobs.status.vm_status import State, VMStatus, judged, worst_first
from pitr.jobs.unusual import Unusual
from pitr.model import Backup, VMName, known_name
from pitr.repository import Repository
from pitr.repository.catalog import overview


@dataclass(frozen=True, slots=True)
class Status:
    """The status of VMs at a time, the worst first, of other sites, and of the protection from removal."""

    time: datetime
    vms: Sequence[VMStatus]
    sites: Sequence[SiteStatus] = ()
    protection: ProtectionStatus | None = None

    @property
    def state(self) -> State:
        """The state of the worst VM or site, or of the protection."""
        states = [*(vm.state for vm in self.vms), *(site.state for site in self.sites)]
        states += [self.protection.state] if self.protection is not None else []
        return max(states, default=State.OK)

    @property
    def ok(self) -> bool:
        return self.state is State.OK

    def count(self, state: State) -> int:
        """Return the number of VMs in a state."""
        return sum(status.state is state for status in self.vms)


def status_of(
    repository: Repository,
    names: Sequence[str],
    max_age: timedelta | None,
    expected: ExpectedRuns,
    sites: Sequence[ExpectedSite] = (),
) -> Status:
    """Return the status of the VMs with these names or ids; of all VMs and of all sites if there is none.

    `max_age` replaces the ages of policies. Raises RepositoryError, NoSuchVM and UsageError.
    """
    now = times.now()
    found = known_points(repository, names, now)
    statuses = [
        judged(vm, points, now, max_age if max_age is not None else of_vm.max_age, of_vm.next_run)
        for vm, points in found
        for of_vm in [expected.of(vm)]
    ]
    return Status(
        now,
        worst_first(statuses),
        sites_of(repository, sites, now) if not names else (),
        protection_status(repository, [vm for vm, _ in found], now),
    )


def document(repository: Repository, status: Status) -> dict[str, Any]:
    """Return the document of `pitr status`. Raises RepositoryError."""
    catalog = repository.catalog_by_number
    found: dict[str, tuple[Unusual, ...]] = {}
    for each in status.vms:
        good, last = each.points.newest_good, each.points.last
        if good is not None:
            is_last = good.backup_id == last.backup_id
            of_vm = {} if is_last else unusual.of_vms(catalog, each.vm.id)
            found[good.backup_id] = last.unusual if is_last else of_vm.get(good.backup_id, ())
    backups = overview.backups(catalog, found)
    facts = facts_of_good_points(repository, _with_files(repository, found))
    result: dict[str, Any] = {
        "ok": status.ok,
        "vms": [_document(each, backups, facts) for each in status.vms],
    }
    if status.protection is not None:
        result["protection"] = status.protection.as_document()
    if status.sites:
        result["sites"] = [_site(each, status.time) for each in status.sites]
    return result


def _with_files(
    repository: Repository, found: Mapping[str, tuple[Unusual, ...]]
) -> Mapping[str, tuple[Unusual, ...]]:
    """Return what is unusual about the points `found`, with what checks of their files found."""
    checked = unusual_files.of_vms(repository, None)
    return {backup_id: of_point + checked.get(backup_id, ()) for backup_id, of_point in found.items()}


def _site(site: SiteStatus, now: datetime) -> dict[str, Any]:
    return {
        "site": site.name,
        "place": site.place,
        "repository_id": site.repository_id,
        "state": site.state.word,
        "reasons": list(site.reasons),
        "copied_at": times.to_text(site.copied) if site.copied is not None else None,
        "behind": site.behind,
        "behind_s": round((now - site.oldest).total_seconds(), 3) if site.oldest is not None else 0,
    }


def _document(
    status: VMStatus, backups: Mapping[str, Backup], facts: Mapping[str, PointFacts]
) -> dict[str, Any]:
    points = status.points
    good = points.newest_good.backup_id if points.newest_good is not None else ""
    return {
        "vm": _vm(status.vm),
        "state": status.state.word,
        "reasons": list(status.reasons),
        "newest_good": documents.point(backups[good], facts.get(good, NO_FACTS)) if good in backups else None,
        "age_s": round(status.age.total_seconds(), 3) if status.age is not None else None,
        "points": points.count,
        "chain_length": points.chain_length,
        "proven_at": times.to_text(points.proven_at) if points.proven_at is not None else None,
        "damaged_points": list(points.damaged),
        "incomplete_points": list(points.incomplete),
        "unusual": [asdict(each) for each in (*points.last.unusual, *points.unusual_files)],
    }


def _vm(vm: VMName) -> dict[str, str | None]:
    return {"id": vm.id, "name": known_name(vm.name)}
