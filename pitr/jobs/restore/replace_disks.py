# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of a VM's disks in place; the only copy of a disk is never overwritten.

New disks are created and verified first. Then each takes the place of the old disk, which is kept detached and
renamed: the engine deletes the disk of a cancelled upload, so pitr never uploads to the old disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pitr.errors import EngineBusy, UsageError
from pitr.jobs.restore.choice import Placement
from pitr.jobs.restore.outcome import TargetOutcome
from pitr.jobs.restore.states import vm_as_it_is
from pitr.jobs.restore.swap import DiskSwap, Exchange
from pitr.jobs.restore.to_new_disks import NewDisksTarget, OntoNewDisks
from pitr.jobs.restore.uploading import Uploading
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Backup, Stream
from pitr.ovirt.engine import (
    Disk,
    get_vm,
    valid_alias,
    vm_disks,
)
from pitr.repository import successions
from pitr.text import named, printable
from pitr.times import now


class ReplacedDisksTarget(OntoNewDisks):
    """Replaces disks of the point's VM, which must be down. Raises EngineBusy if it is not, NoSuchVM.

    Other disks of the VM stay. A restored disk that the VM has lost since is attached again. A failure at any moment
    puts the old disks back. Each new disk is verified, also without a verifier in `uploading`.
    """

    def __init__(
        self, uploading: Uploading, backup: Backup, streams: Sequence[Stream], placement: Placement
    ) -> None:
        self._engine = uploading.engine
        self._streams = list(streams)
        self._repository = uploading.notes.repository
        self._notify = uploading.notify
        self._vm_id = backup.vm.id
        self.vm_id: str | None = backup.vm.id
        self._check_down()
        old_disks = self._old_disks()
        if uploading.verifier is None:
            uploading = replace(uploading, verifier=Verifier(1))
        self._uploading = uploading
        self._swap = DiskSwap(uploading, backup.vm.id)
        self._disks = NewDisksTarget(uploading, backup, streams, placement, old_disks=old_disks)

    def outcome(self) -> TargetOutcome:
        return TargetOutcome(self._disks.places(final=True), vm_as_it_is(self._engine, self._vm_id))

    def finish(self) -> None:
        self._check_down()
        old_disks = self._old_disks()
        suffix = f"_replaced_{now():%Y%m%dT%H%M%SZ}"
        self._swap.carry_out([self._exchange(stream, old_disks) for stream in self._streams], suffix)
        for old in old_disks.values():
            self._notify(
                f"kept the old disk {old.id} as {valid_alias(old.name, suffix)}: delete it when you no longer need it"
            )

    def undo(self) -> None:
        self._swap.undo()
        self._disks.undo()

    def _exchange(self, stream: Stream, old_disks: Mapping[str, Disk]) -> Exchange:
        old = old_disks.get(stream.disk_id)
        return Exchange(
            self._disks.new_disk(stream),
            self._disks.aliases[stream.disk_id],
            self._disks.settings(stream),
            old,
            old.id if old is not None else stream.disk_id,
        )

    def _check_down(self) -> None:
        vm = get_vm(self._engine, self._vm_id)
        if vm.status != "down":
            raise EngineBusy(
                f"VM {printable(vm.name)} is {vm.status}: its disks can be replaced only while it is down",
                "Shut it down, or restore to new disks.",
            )

    def _old_disks(self) -> dict[str, Disk]:
        """Return the VM's disks to replace, by the disk ids in the point.

        A disk that took the place of the point's disk in an earlier restore is replaced now. Raises EngineBusy while
        another operation has locked a disk, UsageError if several disks took the place of one.
        """
        attached = {disk.id: disk for disk in vm_disks(self._engine, self._vm_id)}
        known = successions.of_vm(self._repository.store, self._vm_id)
        old_disks: dict[str, Disk] = {}
        for stream in self._streams:
            family = known.family([stream.disk_id])
            matches = [attached[stream.disk_id]] if stream.disk_id in attached else []
            matches = matches or [disk for disk in attached.values() if disk.id in family]
            if len(matches) > 1:
                listed = ", ".join(named(disk.name, disk.id) for disk in matches)
                raise UsageError(
                    f"several disks of the VM took the place of disk {printable(stream.name)}: {listed}",
                    "Detach those that pitr must not replace.",
                )
            for disk in matches:
                if disk.status == "locked":
                    raise EngineBusy(
                        f"disk {printable(disk.name)} is locked",
                        "Wait until the other operation on the disk is complete.",
                    )
                old_disks[stream.disk_id] = disk
        return old_disks
