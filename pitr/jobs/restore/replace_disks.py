# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring a VM's disks in place, without ever writing over the only copy.

New disks are made and verified first. Then each takes the place of the old one, which is kept, detached and under
another name: an upload that is cancelled deletes its disk, so the old disks are never uploaded to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pitr.errors import EngineBusy, PitrError
from pitr.jobs.backup.one_vm import Notify
from pitr.jobs.restore.to_new_disks import NewDisksTarget, OntoNewDisks
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.model import Backup, Stream
from pitr.ovirt.engine import Disk, Engine, attach_disk, detach_disk, get_vm, rename_attached_disk, vm_disks
from pitr.text import printable
from pitr.times import now


class ReplacedDisksTarget(OntoNewDisks):
    """The disks of the VM that the point is of, which must be down. Raises EngineBusy when it is not, NoSuchVM.

    Disks of the VM that are not restored stay as they are; those that the VM has lost since are attached again.
    A failure at any moment puts the old disks back.
    """

    def __init__(
        self,
        engine: Engine,
        backup: Backup,
        streams: Sequence[Stream],
        *,
        storage_domain: str | None,
        disk_map: Mapping[str, str],
        verifier: Verifier,
        notes: UploadNotes,
        notify: Notify,
    ) -> None:
        self._engine = engine
        self._streams = list(streams)
        self._notify = notify
        self._undo_swap = ExitStack()
        self._vm_id = backup.vm.id
        self.vm_id: str | None = backup.vm.id
        self._check_down()
        self._current()
        self._disks = NewDisksTarget(
            engine,
            backup,
            streams,
            storage_domain=storage_domain,
            disk_map=disk_map,
            verifier=verifier,
            notes=notes,
            notify=notify,
        )

    def finish(self) -> None:
        self._check_down()
        current = self._current()
        suffix = f"_replaced_{now():%Y%m%dT%H%M%SZ}"
        for stream in self._streams:
            old = current.get(stream.disk_id)
            if old is not None:
                rename_attached_disk(self._engine, self._vm_id, old.id, f"{old.name}{suffix}")
                self._undo_swap.callback(rename_attached_disk, self._engine, self._vm_id, old.id, old.name)
                self._undo_swap.callback(self._attach, old.id, old.interface, old.bootable, old.active)
                detach_disk(self._engine, self._vm_id, old.id)
        for stream in self._streams:
            old = current.get(stream.disk_id)
            new_id = self._disks.made[stream.disk_id]
            self._undo_swap.callback(detach_disk, self._engine, self._vm_id, new_id)
            if old is not None:
                self._attach(new_id, old.interface, old.bootable, old.active)
            else:
                self._attach(new_id, stream.settings.interface, stream.settings.bootable, True)
        for stream in self._streams:
            old = current.get(stream.disk_id)
            name = old.name if old is not None else stream.name
            new_id = self._disks.made[stream.disk_id]
            rename_attached_disk(self._engine, self._vm_id, new_id, name)
        self._undo_swap.pop_all()
        for old in (current[stream.disk_id] for stream in self._streams if stream.disk_id in current):
            self._notify(
                f"the old disk {old.id} is kept as {printable(old.name)}{suffix}: delete it when it is not needed"
            )

    def undo(self) -> None:
        try:
            self._undo_swap.close()
        except PitrError as error:
            self._notify(
                f"VM {self._vm_id} could not be put back as it was: {error.message}; its old disks are still there, "
                "attach them by hand"
            )
        self._disks.undo()

    def _check_down(self) -> None:
        vm = get_vm(self._engine, self._vm_id)
        if vm.status != "down":
            raise EngineBusy(
                f"VM {printable(vm.name)} is {vm.status}: its disks can be replaced only while it is down",
                "Shut it down, or restore to new disks.",
            )

    def _current(self) -> dict[str, Disk]:
        """The VM's own disks by their ids. Raises EngineBusy while something works on one that is to go."""
        current = {disk.id: disk for disk in vm_disks(self._engine, self._vm_id)}
        for stream in self._streams:
            disk = current.get(stream.disk_id)
            if disk is not None and disk.status == "locked":
                raise EngineBusy(
                    f"disk {printable(disk.name)} is locked",
                    "Wait until the other operation on the disk has ended.",
                )
        return current

    def _attach(self, disk_id: str, interface: str | None, bootable: bool, active: bool) -> None:
        attach_disk(
            self._engine,
            self._vm_id,
            disk_id,
            interface=interface or "virtio_scsi",
            bootable=bootable,
            active=active,
        )
