# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the point at a time only if its data is good, or else the newest good point before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pitr import times
from pitr.errors import NoSuchDisk
from pitr.jobs import find, known_damage
from pitr.jobs.asked_time import AskedTime
from pitr.jobs.find import Choice
from pitr.jobs.known_damage import Loss
from pitr.model import Backup
from pitr.reporting import Notify
from pitr.repository import Repository, findings
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class GoodPoint:
    """What to do about a damaged point that a time names.

    `disks`: only these disks (names or ids) must be good; all if empty. `newest_good`: take the newest good point
    instead. `refuse`: a damaged point is an error; otherwise `notify` only gets a line, for a command that checks each
    byte and needs few of them. `check`: the command that stores new damage as findings; None for a dry run, which
    stores nothing. `use_damaged`: what the advice says about the damaged point; "{id}" stands for its id.
    """

    disks: Sequence[str]
    check: str | None
    newest_good: bool = False
    refuse: bool = True
    use_damaged: str = "--point {id} uses the damaged point."


def at_time(
    repository: Repository, chosen: Choice, time: AskedTime, wanted: GoodPoint, notify: Notify
) -> Choice:
    """Return `chosen`, the newest point within `time` or before it, if its data is good as far as pitr knows.

    pitr knows the damage of earlier checks, and checks that all objects of the chains exist with the right sizes. If
    the point is damaged, return the newest good point before it with `newest_good`, and tell `notify`. Otherwise raise
    StoredDamage, whose advice names that point.
    """
    candidates = _Candidates(repository, chosen.backup.vm.id, wanted)
    lost = _lost_record(repository, chosen.backup, time.latest)
    first: Backup | None = None
    if lost is None:
        first = chosen.backup
        lost = candidates.damage(first)
        if lost is None:
            return chosen
    good = candidates.newest_good(chosen.backup, besides=first)
    which = (
        f"of {times.for_people(first.point)} (backup {first.backup_id})"
        if first
        else f"backup {lost.backup_id}"
    )
    message = (
        f"the newest point of VM {printable(chosen.backup.vm.name)} at or before {time.words}, {which}, "
        f"is damaged: {lost.message}"
    )
    if good is not None and wanted.newest_good:
        notify(f"{message}. pitr takes the newest good point")
        later = repository.catalog_of_vm(good.vm.id).first_after(good.vm.id, good.point)
        return replace(
            chosen,
            backup=good,
            age_s=time.age_s(good.point),
            next_point=later.point if later else None,
        )
    if first is not None and not wanted.refuse:
        notify(f"{message}. {_advice(good, None, wanted)}")
        return chosen
    raise _error(lost, message, _advice(good, first, wanted))


def _error(damage: Damage, message: str, advice: str) -> StoredDamage:
    error = StoredDamage(damage)
    error.message, error.advice = message, advice
    return error


def _advice(good: Backup | None, lost: Backup | None, wanted: GoodPoint) -> str:
    if good is None:
        parts = ["The VM has no good point before it."]
    else:
        take = f"--point {good.backup_id}" + ("" if wanted.newest_good else " or --newest-good")
        parts = [f"The newest good point is of {times.for_people(good.point)}: take it with {take}."]
    if lost is not None:
        parts.append(wanted.use_damaged.format(id=lost.backup_id))
    return " ".join(parts)


def _lost_record(repository: Repository, chosen: Backup, time: datetime) -> Damage | None:
    """Return the damage of a newer point, not after `time`, whose record is lost or unreadable."""
    try:
        find.check_none_lost(repository, chosen, time)
    except StoredDamage as error:
        return error.damage
    catalog = repository.catalog_of_vm(chosen.vm.id)
    for finding in findings.found_in(repository.store, chosen.vm.id):
        if finding.stream_id is None and catalog.get(finding.backup_id) is None:
            known = findings.read(repository.store, finding)
            if known.point is not None and chosen.point < known.point <= time:
                return known.damage
    return None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The points of a VM, and what is known to be damaged."""

    repository: Repository
    vm_id: str
    wanted: GoodPoint

    def newest_good(self, chosen: Backup, *, besides: Backup | None) -> Backup | None:
        """Return the newest good point that is not newer than `chosen`; never `besides`."""
        known = known_damage.losses(self.repository, self.vm_id)
        for backup in self._not_newer(chosen):
            if backup != besides and self.damage(backup, known) is None:
                return backup
        return None

    def _not_newer(self, chosen: Backup) -> Iterator[Backup]:
        reached = False
        for backup in self.repository.catalog_of_vm(self.vm_id).points(self.vm_id):
            reached = reached or backup.backup_id == chosen.backup_id
            if reached:
                try:
                    if find.streams_of(backup, self.wanted.disks, self.repository):
                        yield backup
                except NoSuchDisk:
                    continue

    def damage(self, backup: Backup, known: Sequence[Loss] | None = None) -> Damage | None:
        """Return damage of the wanted disks of a point, or None."""
        streams = find.streams_of(backup, self.wanted.disks, self.repository)
        disks = {stream.disk_id for stream in streams}
        if known is None:
            known = known_damage.losses(self.repository, self.vm_id)
        for loss in known:
            if loss.concerns(backup, disks):
                return findings.read(self.repository.store, loss.finding).damage
        try:
            for stream in streams:
                for owner, part in self.repository.chain(backup, stream):
                    self.repository.check_sizes(owner, part)
        except StoredDamage as error:
            if self.wanted.check is not None and not isinstance(error, CatalogDiffers):
                known_damage.remember(
                    self.repository, self.vm_id, self.wanted.check, [error.damage], lambda line: None
                )
            return error.damage
        return None
