# SPDX-License-Identifier: GPL-2.0-or-later
"""Let new disks take the places of a VM's disks, which stay, detached and renamed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pitr.errors import PitrError
from pitr.jobs.disk_settings import settings_of
from pitr.jobs.restore.uploading import Uploading, attach_with, note_succession
from pitr.model import DiskSettings
from pitr.ovirt.engine import Disk, detach_disk, rename_attached_disk, valid_alias, vm_disks


@dataclass(frozen=True, slots=True)
class Exchange:
    """A new disk that comes to a VM: its id, its name there, its settings, and the disk that it takes the place of.

    `was_id`: the id of the disk whose place it takes even if the VM no longer has that disk. `attached`: an earlier run
    has attached the new disk already.
    """

    new_id: str
    name: str
    settings: DiskSettings
    old: Disk | None
    was_id: str
    attached: bool = False


class DiskSwap:
    """Swaps disks of the VM, which must be down."""

    def __init__(self, uploading: Uploading, vm_id: str) -> None:
        self._uploading = uploading
        self._engine = uploading.engine
        self._vm_id = vm_id
        self._undo = ExitStack()

    def carry_out(self, exchanges: Sequence[Exchange], suffix: str) -> None:
        """Swap all disks. The old ones get `suffix` at the end of their names. Raises EngineError: then undo it."""
        for exchange in exchanges:
            if exchange.old is not None:
                self._take_away(exchange.old, suffix)
        for exchange in exchanges:
            if not exchange.attached:
                self._put_in(exchange)
        for exchange in exchanges:
            rename_attached_disk(self._engine, self._vm_id, exchange.new_id, exchange.name)
        self._undo.pop_all()
        repository, notify = self._uploading.notes.repository, self._uploading.notify
        for exchange in exchanges:
            note_succession(repository, self._vm_id, exchange.was_id, exchange.new_id, notify)

    def undo(self) -> bool:
        """Put the old disks back, if the swap is not complete; tell if that fails, and return whether they are back."""
        try:
            self._undo.close()
        except PitrError as error:
            self._uploading.notify(
                f"cannot put the old disks of VM {self._vm_id} back: {error.message}. They still exist: "
                "attach them by hand"
            )
            return False
        return True

    def _take_away(self, old: Disk, suffix: str) -> None:
        rename_attached_disk(self._engine, self._vm_id, old.id, valid_alias(old.name, suffix))
        # The engine does not take an alias back that an older engine gave and it no longer accepts.
        self._undo.callback(rename_attached_disk, self._engine, self._vm_id, old.id, valid_alias(old.name))
        self._undo.callback(self._attach_again, old)
        detach_disk(self._engine, self._vm_id, old.id)

    def _put_in(self, exchange: Exchange) -> None:
        self._undo.callback(detach_disk, self._engine, self._vm_id, exchange.new_id)
        bootable, active = True, True
        if exchange.old is not None:
            active = exchange.old.active
        else:
            # The engine refuses a second boot disk.
            bootable = not any(disk.bootable for disk in vm_disks(self._engine, self._vm_id))
        attach_with(
            self._uploading,
            self._vm_id,
            exchange.new_id,
            exchange.settings,
            bootable=bootable,
            active=active,
        )

    def _attach_again(self, old: Disk) -> None:
        attach_with(self._uploading, self._vm_id, old.id, settings_of(old), bootable=True, active=old.active)
