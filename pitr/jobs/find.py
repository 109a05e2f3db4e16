# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the VM, point and disks that a person named, in the repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pitr import times
from pitr.errors import NamesSealed, NoSuchDisk, NoSuchPoint, NoSuchVM, PitrError, UsageError
from pitr.jobs import lineage, point_order
from pitr.jobs.asked_time import AskedTime, to_type
from pitr.model import Backup, Stream, VMName, known_name
from pitr.repository import Repository, names, removed_points
from pitr.repository.catalog import Catalog
from pitr.repository.removed_points import RemovedPoint
from pitr.text import named, printable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen point, and the time of the next later point.

    `age_s` tells by how many seconds the point is earlier than the requested time; 0 if it is not. `asked` is that
    time; None for a point named by its id. `notes` say what is special about the choice.
    """

    backup: Backup
    age_s: float
    next_point: datetime | None
    asked: AskedTime | None = None
    notes: tuple[str, ...] = ()


def point_of(
    repository: Repository,
    vm: str | None,
    point: str | None,
    time: AskedTime | None,
    *,
    check_lost: bool = True,
) -> Choice:
    """Return the point with this id, or else the VM's newest point within `time` or before it.

    Without `vm`, the repository must hold only one VM. `check_lost` raises StoredDamage if a newer point is lost.
    Raises NoSuchVM, NoSuchPoint and UsageError.
    """
    if point is not None:
        try:
            of_vm = vm_named(repository.catalog_of_vm(vm), vm) if vm is not None else None
            return point_with_id(repository, point, of_vm)
        except (NoSuchPoint, NoSuchVM) as error:
            return _removed(repository, point, vm, error)
    if time is None:
        raise ValueError("neither a point nor a time is given")
    catalog = repository.catalog_of_vm(vm)
    chosen = point_at(catalog, vm_named(catalog, vm) if vm is not None else only_vm(catalog), time)
    if check_lost:
        check_none_lost(repository, chosen.backup, time.latest)
    return chosen


def point_with_id(repository: Repository, name: str, vm: VMName | None = None) -> Choice:
    """Return the point whose id is `name` or begins with it. Raises NoSuchPoint and UsageError."""
    return point_named(repository.catalog_with_point(name), name, vm)


def point_or_removed(repository: Repository, name: str) -> Choice:
    """Return the point whose id is `name` or begins with it, also one that is removed and not yet swept.

    Raises NoSuchPoint and UsageError.
    """
    return point_of(repository, None, name, None)


def removed_named(points: Sequence[RemovedPoint], name: str) -> RemovedPoint | None:
    """Return the removed point whose id is `name` or begins with it; None if none does. Raises UsageError."""
    found = [
        each
        for each in points
        if each.backup.backup_id == name or (len(name) >= 3 and each.backup.backup_id.startswith(name))
    ]
    if len(found) > 1 and all(each.backup.backup_id != name for each in found):
        ids = ", ".join(each.backup.backup_id for each in found)
        raise UsageError(
            f"several removed points begin with {name!r}", f"Give more characters of the id: {ids}."
        )
    return next((each for each in found if each.backup.backup_id == name), found[0] if found else None)


def _removed(repository: Repository, name: str, vm: str | None, error: PitrError) -> Choice:
    """Return the removed point whose id is `name` or begins with it. Raises UsageError, and `error` for none."""
    points = removed_points.of_vm(repository, None)
    found = removed_named(
        [each for each in points if vm in (None, each.backup.vm.id, each.backup.vm.name)], name
    )
    if found is None:
        raise error
    note = f"this point is removed, and its data may be gone after {times.for_people(found.swept_after)}"
    return Choice(found.backup, 0.0, None, None, (note,))


def vms_of(repository: Repository, name: str | None) -> list[VMName]:
    """Return the VM with this id or name; all VMs for None. Raises NoSuchVM and UsageError."""
    catalog = repository.catalog_of_vm(name)
    return catalog.vms() if name is None else [vm_named(catalog, name)]


def vm_named(catalog: Catalog, name: str) -> VMName:
    """Return the VM with this id or name. Raises NoSuchVM, and UsageError if several VMs have the name.

    Raises NamesSealed for another text where the names of the VMs are sealed.
    """
    vm = by_id_or_name(name, "VMs", [(vm.id, vm.name, vm) for vm in catalog.vms_named(name)])
    if vm is None:
        vms = catalog.vms()
        if vms and all(known_name(known.name) is None for known in vms):
            raise NamesSealed(f"no VM has the id {printable(name)}, the names of VMs are sealed")
        known = ", ".join(printable(vm.name) for vm in vms)
        raise NoSuchVM(
            f"the repository holds no backup of a VM {name!r}",
            _previous_names(catalog, name)
            or (f"It holds backups of: {known}." if known else "It holds no backups at all."),
        )
    return vm


def by_id_or_name(wanted: str, kind: str, known: Iterable[tuple[str, str, T]]) -> T | None:
    """Return the thing of the (id, name, thing) whose id is `wanted`, or else whose name it is; None if none matches.

    `kind` is what an error calls such things: "VMs", "disks". Raises UsageError if several things have the name.
    """
    entries = list(known)
    matches = {id: thing for id, _, thing in entries if id == wanted}
    matches = matches or {id: thing for id, name, thing in entries if name == wanted}
    if len(matches) > 1:
        raise UsageError(
            f"several {kind} are named {wanted!r}", f"Use one of their ids: {', '.join(matches)}."
        )
    return next(iter(matches.values()), None)


def only_vm(catalog: Catalog) -> VMName:
    """Return the only VM of the repository. Raises NoSuchVM, and UsageError that lists the VMs if there are several."""
    vms = catalog.vms()
    if not vms:
        raise NoSuchVM("the repository holds no backups", "Take one with 'pitr backup VM'.")
    if len(vms) > 1:
        listed = ", ".join(named(vm.name, vm.id) for vm in vms)
        raise UsageError("the repository holds backups of several VMs", f"Name one of them: {listed}.")
    return vms[0]


def point_at(catalog: Catalog, vm: VMName, time: AskedTime) -> Choice:
    """Return the newest point of the VM within `time` or before it. Raises NoSuchPoint with the first point's time."""
    backup = catalog.newest_until(vm.id, time.latest)
    if backup is not None and time.newest:
        backup = _newest_by_lineage(catalog, backup)
    later = catalog.first_after(vm.id, time.latest)
    if backup is None:
        if later is None:
            raise NoSuchPoint(f"there is no point of VM {printable(vm.name)}")
        raise NoSuchPoint(
            f"there is no point of VM {printable(vm.name)} at or before {time.words}",
            f"The first point is of {times.for_people(later.point)} ({times.to_text(later.point)}): "
            f"take it with --at {to_type(later.point)}. "
            f"{_previous_names(catalog, vm.name)}".strip(),
        )
    notes = _label_notes(catalog, backup)
    return Choice(backup, time.age_s(backup.point), later.point if later else None, time, notes)


def _newest_by_lineage(catalog: Catalog, newest: Backup) -> Backup:
    """Return the newest point of the VM; `newest` has the latest label, which a wrong clock may have made."""
    if newest.point <= times.now() and catalog.descendants(newest.backup_id) == [newest.backup_id]:
        return newest
    return point_order.newest_first(catalog.points(newest.vm.id), times.now())[0]


def _label_notes(catalog: Catalog, backup: Backup) -> tuple[str, ...]:
    """Return a note if the labels of the point and of its chain contradict their lineage."""
    ids = catalog.descendants(backup.backup_id)
    early = [
        other
        for backup_id in ids[: ids.index(backup.backup_id)]
        if (other := catalog.get(backup_id)) is not None and other.point < backup.point
    ]
    if early:
        return (
            "a clock was wrong: labels and lineage disagree, and the point labelled "
            f"{times.for_people(early[-1].point)} is newer than this one; --point {early[-1].backup_id} takes it",
        )
    late = catalog.latest_in_chain(backup.backup_id)
    if late is not None and late.point > backup.point:
        return (
            "a clock was wrong: labels and lineage disagree, and this point is newer than the point labelled "
            f"{times.for_people(late.point)} (backup {late.backup_id})",
        )
    return ()


def _previous_names(catalog: Catalog, name: str) -> str:
    """Return a hint that lists the VMs that had this name before; "" if none had it."""
    vms = ", ".join(named(vm.name, vm.id) for vm in catalog.vms_once_named(name))
    return f"VMs that previously had this name: {vms}." if vms else ""


def check_none_lost(repository: Repository, chosen: Backup, time: datetime) -> None:
    """Raise StoredDamage if an unreadable record is of a point after `chosen` and not after `time`.

    The catalog does not know a record that was damaged before pitr read it. Without this check, pitr would silently
    choose an older point.
    """
    known = set(repository.catalog_of_vm(chosen.vm.id).known(chosen.vm.id))
    known |= removed_points.record_names(repository, chosen.vm.id)
    for name in repository.store.list(names.records_of(chosen.vm.id)):
        point = names.point_of_record(name)
        if name not in known and (point is None or chosen.point <= point <= time):
            repository.read_record(name)


def point_named(catalog: Catalog, name: str, vm: VMName | None = None) -> Choice:
    """Return the point whose id is `name` or begins with it (at least 3 characters).

    A point that stands for another one, which is gone, also has the id of that one. Raises NoSuchPoint and UsageError.
    """
    exact = catalog.get(name) or catalog.stand_in(name)
    matches = [exact] if exact else (catalog.with_prefix(name) if len(name) >= 3 else [])
    matches = [backup for backup in matches if vm is None or backup.vm.id == vm.id]
    if not matches:
        of_vm = f" of VM {printable(vm.name)}" if vm else ""
        raise NoSuchPoint(
            f"there is no point {name!r}{of_vm}",
            "'pitr list' shows all points; three characters of an id are enough.",
        )
    if len(matches) > 1:
        ids = ", ".join(backup.backup_id for backup in matches)
        raise UsageError(f"several points begin with {name!r}", f"Give more characters of the id: {ids}.")
    later = catalog.first_after(matches[0].vm.id, matches[0].point)
    return Choice(matches[0], 0.0, later.point if later else None)


def stream_of(backup: Backup, disk: str | None, repository: Repository | None = None) -> Stream:
    """Return the stream of the disk with this id or name; of the only disk for None.

    Raises NoSuchDisk and UsageError.
    """
    streams = streams_of(backup, [disk] if disk is not None else [], repository)
    if not streams:
        raise _no_disks(backup)
    if len(streams) > 1:
        raise UsageError("the point holds several disks", f"Choose one with --disk: {_listed(streams)}.")
    return streams[0]


def some_streams_of(
    backup: Backup, disks: Sequence[str], repository: Repository | None = None
) -> list[Stream]:
    """Return the same as `streams_of`, but at least one stream. Raises UsageError if the point has no disk."""
    streams = streams_of(backup, disks, repository)
    if not streams:
        raise _no_disks(backup)
    return streams


def _no_disks(backup: Backup) -> UsageError:
    return UsageError(f"the point {backup.backup_id} holds no disks")


def _listed(streams: Iterable[Stream]) -> str:
    return ", ".join(named(stream.name, stream.disk_id) for stream in streams)


def streams_of(backup: Backup, disks: Sequence[str], repository: Repository | None = None) -> list[Stream]:
    """Return the streams of the disks with these ids or names; all streams if `disks` is empty.

    With the `repository` a name or id that the disk had at another point finds it too, and so does the name or id of a
    disk that a restore put in its place, or that it replaced. Raises NoSuchDisk, and UsageError if several disks match.
    """
    if not disks:
        return list(backup.streams)
    chosen: list[Stream] = []
    for disk in disks:
        stream = by_id_or_name(
            disk, "disks", [(stream.disk_id, stream.name, stream) for stream in backup.streams]
        )
        if stream is None and repository is not None:
            family = lineage.disk_ids_of(repository, backup.vm.id, disk)
            stream = by_id_or_name(
                disk,
                "disks",
                [(each.disk_id, disk, each) for each in backup.streams if each.disk_id in family],
            )
        if stream is None:
            why = next((left.reason for left in backup.left_out if disk in (left.disk_id, left.name)), None)
            raise NoSuchDisk(
                f"the point {backup.backup_id} holds no disk {disk!r}"
                + (f": {printable(why)}" if why is not None else ""),
                f"It holds: {_listed(backup.streams) or 'none'}.",
            )
        if stream not in chosen:
            chosen.append(stream)
    return chosen


def ancestry(catalog: Catalog, backup: Backup) -> list[Backup]:
    """Return the backups that this one is based on, from the full to itself, as far as the catalog knows them."""
    chain = [backup]
    seen = {backup.backup_id}
    while backup.parent_id is not None and backup.parent_id not in seen:
        parent = catalog.get(backup.parent_id) or catalog.stand_in(backup.parent_id)
        if parent is None or parent.backup_id in seen:
            break
        chain.append(parent)
        seen.add(parent.backup_id)
        backup = parent
    return chain[::-1]
