# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds, which keep points whatever the rules say, and the notes of points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from pitr import times
from pitr.errors import NoSuchPoint, UsageError
from pitr.jobs import asked_time
from pitr.model import Backup
from pitr.repository import Repository, marks, names, rollbacks
from pitr.repository.marks import NO_MARKS, Hold, Marks
from pitr.repository.store import ObjectMissing


def marks_of(repository: Repository, vm_id: str | None) -> dict[str, Marks]:
    """Return the holds that apply now and the notes of a VM's points (None: of all points), by backup id.

    Points without them are absent. What an unfinished rollback needs is held until it ends. Raises RepositoryError.
    """
    now = times.now()
    found = {
        backup_id: each if each.hold is None or each.hold.applies(now) else replace(each, hold=None)
        for backup_id, each in marks.of_vm(repository.store, vm_id).items()
    }
    for backup_id in _needed_by_rollbacks(repository, vm_id):
        own = found.get(backup_id, NO_MARKS)
        found[backup_id] = replace(own, hold=own.hold or Hold(None, by_rollback=True))
    return {backup_id: each for backup_id, each in found.items() if each != NO_MARKS}


def _needed_by_rollbacks(repository: Repository, vm_id: str | None) -> set[str]:
    """Return the ids of the points that unfinished rollbacks need, and of those that stand for them."""
    named = rollbacks.points_of(repository.store, vm_id)
    if not named:
        return set()
    catalog = repository.catalog_of_vm(vm_id)
    vms = [vm.id for vm in catalog.vms()] if vm_id is None else [vm_id]
    points = (point for vm in vms for point in catalog.points(vm))
    return {*named, *(point.backup_id for point in points if point.known_as in named)}


def held_in(repository: Repository, vm_id: str) -> dict[str, str]:
    """Return the holds of a VM's points that apply now, in words ("held until …"), by backup id."""
    return {
        backup_id: in_words(each.hold)
        for backup_id, each in marks_of(repository, vm_id).items()
        if each.hold is not None
    }


@contextmanager
def marking(repository: Repository, backup: Backup) -> Iterator[None]:
    """Keep the point while the block marks it: a removal that has begun must not overlook a hold.

    Raises BusyError during a removal from the VM, NoSuchPoint after that of the point, RepositoryError.
    """
    with repository.reading_vm(backup.vm):
        try:
            repository.store.size(names.record(backup.vm.id, backup.point, backup.backup_id))
        except ObjectMissing:
            raise NoSuchPoint(f"the point of backup {backup.backup_id} has just been removed") from None
        yield


def in_words(hold: Hold) -> str:
    """Return the hold in words."""
    if hold.by_rollback:
        return "held by an unfinished rollback"
    return "held" if hold.until is None else f"held until {times.for_people(hold.until)}"


def _end_of_span(text: str, now: datetime) -> datetime | None:
    try:
        return now + times.parse_span("--until", text)
    except UsageError:
        return None
    except OverflowError:
        raise UsageError(
            f"--until {text!r} is out of range", "Leave out --until to hold the point until you release it."
        ) from None


def _end_of_time(text: str, now: datetime) -> datetime:
    try:
        asked = asked_time.parse(text, now=now)
    except UsageError as error:
        raise UsageError(
            f"--until: {error.message}",
            "Give a date such as 2030-12-31, a time such as 2030-12-31T18:00, or a time span such as 90d.",
        ) from None
    # "now" means the newest point, and has no end as a time.
    return now if asked.newest else asked.latest


def end_of(text: str, now: datetime | None = None) -> datetime:
    """Return the end of a hold that `--until` gives: a date (its end), a time, or a span from now ("30d").

    Raises UsageError, also for the past.
    """
    now = now or times.now()
    end = _end_of_span(text, now) or _end_of_time(text, now)
    if end <= now:
        raise UsageError(
            f"--until {text!r} is in the past",
            "Give a later date, for example 2030-12-31, or a time span such as 90d.",
        )
    return end
