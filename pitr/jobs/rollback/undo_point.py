# SPDX-License-Identifier: GPL-2.0-or-later
"""The undo point: a backup of the present state, committed and checked before a rollback writes a byte."""

from __future__ import annotations

from pitr import times
from pitr.errors import DamageError, NoSuchPoint
from pitr.jobs import find, holds
from pitr.jobs.backup.one_vm import back_up
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.lineage import only_of_family
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, Stream, VMName
from pitr.ovirt.engine import Engine
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, marks, successions
from pitr.text import printable

_NOTE = "before rollback to "


def take(
    repository: Repository,
    engine: Engine,
    back_to: Backup,
    *,
    workers: int,
    progress: Progress | None,
    notify: Notify,
) -> Backup:
    """Back up the VM of `back_to` as it is now, check the new data, note what it is for, and return the new point.

    Raises the errors of a backup, DamageError if the new data is not good.
    """
    options = BackupOptions(incremental=True, workers=workers)
    backup = back_up(repository, engine, back_to.vm.id, options, progress=progress, notify=notify)
    own = frozenset(stream.stream_id for stream in backup.streams)
    checked = verify(
        repository,
        Scope(vm_id=backup.vm.id, backup=backup, streams=own),
        "full",
        workers=workers,
        notify=notify,
    )
    if not checked.ok:
        raise DamageError(
            f"the undo point {backup.backup_id} is damaged: {checked.damage[0].message}. Nothing was changed",
            "Check the storage of the repository, then run the same command again.",
        )
    with holds.marking(repository, backup):
        marks.note(repository.store, backup, f"{_NOTE}{times.to_text(back_to.point)}")
    return backup


def newest(repository: Repository, vm: VMName) -> Backup:
    """Return the newest undo point of the VM. Raises NoSuchPoint."""
    noted = marks.of_vm(repository.store, vm.id)
    for backup in repository.catalog_of_vm(vm.id).points(vm.id):
        mark = noted.get(backup.backup_id) or noted.get(backup.known_as)
        if mark is not None and mark.note is not None and mark.note.startswith(_NOTE):
            return backup
    raise NoSuchPoint(
        f"there is no undo point of VM {printable(vm.name)}", "'pitr rollback VM --at TIME' makes one."
    )


def with_id(repository: Repository, backup_id: str, vm: VMName) -> Backup:
    """Return the point with this id, or the one that stands for it, also a removed one that is still there.

    Raises NoSuchPoint.
    """
    return find.point_of(repository, vm.id, backup_id, None).backup


def stream_in(repository: Repository, backup: Backup, disk_id: str) -> Stream | None:
    """Return the stream of the disk, or of the disk whose place it took, in the point; None if it has none."""
    known = successions.of_vm(repository.store, backup.vm.id)
    return backup.stream_of(disk_id) or only_of_family(known, backup, disk_id)
