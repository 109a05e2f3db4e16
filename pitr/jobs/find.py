# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VM, which point, which disks: what was typed, found in the repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pitr import times
from pitr.errors import NoSuchDisk, NoSuchPoint, NoSuchVM, UsageError
from pitr.model import Backup, Stream, VMName
from pitr.repository import Repository, names
from pitr.repository.catalog import Catalog
from pitr.text import printable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """A point that was asked for: its age at the time asked for, and the time of the next later point."""

    backup: Backup
    age_s: float
    next_point: datetime | None


def point_of(
    repository: Repository,
    vm: str | None,
    point: str | None,
    time: datetime | None,
    *,
    check_lost: bool = True,
) -> Choice:
    """The point with this id, or the newest one at or before `time` of the VM (the only one, if none is named).

    Raises NoSuchVM, NoSuchPoint, UsageError and, with `check_lost`, StoredDamage where a newer point is lost.
    """
    if point is not None:
        named = vm_named(repository.catalog_of_vm(vm), vm) if vm is not None else None
        return point_with_id(repository, point, named)
    if time is None:
        raise ValueError("neither a point nor a time is given")
    catalog = repository.catalog_of_vm(vm)
    chosen = point_at(catalog, vm_named(catalog, vm) if vm is not None else only_vm(catalog), time)
    if check_lost:
        check_none_lost(repository, chosen.backup, time)
    return chosen


def point_with_id(repository: Repository, name: str, vm: VMName | None = None) -> Choice:
    """The point whose id is, or begins with, `name`. Raises NoSuchPoint and UsageError."""
    return point_named(repository.catalog_with_point(name), name, vm)


def vms_of(repository: Repository, name: str | None) -> list[VMName]:
    """The VM with this id or name; all VMs for None. Raises NoSuchVM and UsageError."""
    catalog = repository.catalog_of_vm(name)
    return catalog.vms() if name is None else [vm_named(catalog, name)]


def vm_named(catalog: Catalog, name: str) -> VMName:
    """The VM with this id or name. Raises NoSuchVM, and UsageError when several have the name."""
    vms = catalog.vms()
    found = by_id_or_name(name, "VMs", [(vm.id, vm.name, vm) for vm in vms])
    if found is None:
        known = ", ".join(printable(vm.name) for vm in vms)
        raise NoSuchVM(
            f"the repository holds no backup of a VM {name!r}",
            _once_named(catalog, name)
            or (f"It holds backups of: {known}." if known else "It holds no backups at all."),
        )
    return found


def by_id_or_name(wanted: str, what: str, known: Iterable[tuple[str, str, T]]) -> T | None:
    """The one of (id, name, thing) that has `wanted` as its id, else as its name; None when none has.

    `what` names such things for people. Raises UsageError when several have the name.
    """
    every = list(known)
    found = [one for one in every if one[0] == wanted] or [one for one in every if one[1] == wanted]
    if len(found) > 1:
        ids = ", ".join(one[0] for one in found)
        raise UsageError(f"several {what} are named {wanted!r}", f"Use one of their ids: {ids}.")
    return found[0][2] if found else None


def only_vm(catalog: Catalog) -> VMName:
    """The only VM of the repository. Raises UsageError that lists them when there are several."""
    vms = catalog.vms()
    if not vms:
        raise NoSuchVM("the repository holds no backups", "Take one with 'pitr backup VM'.")
    if len(vms) > 1:
        names = ", ".join(f"{printable(vm.name)} ({vm.id})" for vm in vms)
        raise UsageError("the repository holds backups of several VMs", f"Name one of them: {names}.")
    return vms[0]


def point_at(catalog: Catalog, vm: VMName, time: datetime) -> Choice:
    """The newest point of the VM at or before `time`. Raises NoSuchPoint with the first point's time."""
    backup = catalog.newest_until(vm.id, time)
    later = catalog.first_after(vm.id, time)
    if backup is None:
        if later is None:
            raise NoSuchPoint(f"there is no point of VM {printable(vm.name)}")
        raise NoSuchPoint(
            f"there is no point of VM {printable(vm.name)} at or before {times.for_people(time)}",
            f"The first point is of {times.for_people(later.point)} ({times.to_text(later.point)}). "
            f"{_once_named(catalog, vm.name)}".strip(),
        )
    return Choice(backup, (time - backup.point).total_seconds(), later.point if later else None)


def _once_named(catalog: Catalog, name: str) -> str:
    """A hint for who asks for a VM by a name that it had once, or that another VM had."""
    once = ", ".join(f"{printable(vm.name)} ({vm.id})" for vm in catalog.vms_once_named(name))
    return f"So was once named: {once}." if once else ""


def check_none_lost(repository: Repository, chosen: Backup, time: datetime) -> None:
    """Check that no unreadable record is of a point after `chosen` that is not after `time`. Raises StoredDamage.

    The catalog knows none that was damaged before it took it up: without this, an older point would be restored.
    """
    known = repository.catalog_of_vm(chosen.vm.id).known(chosen.vm.id)
    for name in repository.store.list(names.records_of(chosen.vm.id)):
        point = names.point_of_record(name)
        if name not in known and (point is None or chosen.point <= point <= time):
            repository.read_record(name)


def point_named(catalog: Catalog, name: str, vm: VMName | None = None) -> Choice:
    """The point whose id is, or begins with, `name`. Raises NoSuchPoint and UsageError."""
    exact = catalog.get(name)
    found = [exact] if exact else (catalog.with_prefix(name) if len(name) >= 4 else [])
    found = [backup for backup in found if vm is None or backup.vm.id == vm.id]
    if not found:
        of_vm = f" of VM {printable(vm.name)}" if vm else ""
        raise NoSuchPoint(
            f"there is no point {name!r}{of_vm}",
            "'pitr list' shows all points; four characters of an id are enough.",
        )
    if len(found) > 1:
        ids = ", ".join(backup.backup_id for backup in found)
        raise UsageError(f"several points begin with {name!r}", f"Write more of the id: {ids}.")
    later = catalog.first_after(found[0].vm.id, found[0].point)
    return Choice(found[0], 0.0, later.point if later else None)


def stream_of(backup: Backup, disk: str | None) -> Stream:
    """The stream of the disk that is named by id or name, or of the only one. Raises NoSuchDisk and UsageError."""
    streams = streams_of(backup, [disk] if disk is not None else [])
    if not streams:
        raise _no_disks(backup)
    if len(streams) > 1:
        names = ", ".join(f"{printable(stream.name)} ({stream.disk_id})" for stream in streams)
        raise UsageError("the point holds several disks", f"Choose one with --disk: {names}.")
    return streams[0]


def some_streams_of(backup: Backup, disks: Sequence[str]) -> list[Stream]:
    """As `streams_of`, but a point without any disk is a UsageError."""
    streams = streams_of(backup, disks)
    if not streams:
        raise _no_disks(backup)
    return streams


def _no_disks(backup: Backup) -> UsageError:
    return UsageError(f"the point {backup.backup_id} holds no disks")


def streams_of(backup: Backup, disks: Sequence[str]) -> list[Stream]:
    """The streams of the disks that are named by id or name; all when none are named. Raises NoSuchDisk."""
    if not disks:
        return list(backup.streams)
    chosen: list[Stream] = []
    for disk in disks:
        found = by_id_or_name(
            disk, "disks", [(stream.disk_id, stream.name, stream) for stream in backup.streams]
        )
        if found is None:
            have = ", ".join(f"{printable(stream.name)} ({stream.disk_id})" for stream in backup.streams)
            raise NoSuchDisk(
                f"the point {backup.backup_id} holds no disk {disk!r}", f"It holds: {have or 'none'}."
            )
        if found not in chosen:
            chosen.append(found)
    return chosen


def ancestry(catalog: Catalog, backup: Backup) -> list[Backup]:
    """The backups that this one stands on, from the full to itself; as far as the catalog knows them."""
    chain = [backup]
    seen = {backup.backup_id}
    while backup.parent_id is not None and backup.parent_id not in seen:
        parent = catalog.get(backup.parent_id)
        if parent is None:
            break
        chain.append(parent)
        seen.add(parent.backup_id)
        backup = parent
    return chain[::-1]
