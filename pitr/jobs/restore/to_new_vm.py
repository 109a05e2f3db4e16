# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring a whole VM: new disks, then a new VM with the saved configuration, to which they are attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.errors import NoSuchVM, PitrError, UsageError
from pitr.jobs.backup.one_vm import Notify
from pitr.jobs.restore.to_new_disks import NewDisksTarget, OntoNewDisks
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.model import Record, Stream
from pitr.ovirt import ovf
from pitr.ovirt.engine import (
    VM,
    Cluster,
    Engine,
    attach_disk,
    create_vm,
    delete_vm,
    get_vm,
    list_clusters,
    start_vm,
    vm_with_name,
)
from pitr.text import printable


class NewVMTarget(OntoNewDisks):
    """A new VM `name` with all of the point's disks that are restored; down at the end, unless `start`.

    Where the VM of the point is still on the engine, the new one gets ids and MAC addresses of its own; else it
    becomes the old one again. `cluster` is a name or an id; when None, that of the VM, else that of the saved
    configuration, else the only one. Raises UsageError when the name is taken, the point holds no configuration, or
    there is no way to choose a cluster or a storage domain.
    """

    def __init__(
        self,
        engine: Engine,
        record: Record,
        streams: Sequence[Stream],
        name: str,
        *,
        cluster: str | None,
        storage_domain: str | None,
        disk_map: Mapping[str, str],
        start: bool,
        verifier: Verifier | None,
        notes: UploadNotes,
        notify: Notify,
    ) -> None:
        backup = record.backup
        if record.configuration is None:
            raise UsageError(
                f"the point {backup.backup_id} holds no configuration of the VM: the engine gave none",
                "Restore the disks with --to-new-disks --attach-to VM, or choose another point.",
            )
        if vm_with_name(engine, name) is not None:
            raise UsageError(f"there is a VM {name!r} on the engine already", "Choose another name.")
        self._engine = engine
        self._name = name
        self._streams = list(streams)
        self._start = start
        self._notify = notify
        self._left_out = backup.left_out
        original = _original(engine, backup.vm.id)
        self._regenerate = original is not None
        self._configuration = ovf.for_new_vm(record.configuration, name, keep_addresses=original is None)
        self._cluster = _cluster(engine, cluster, original, ovf.cluster_name(record.configuration))
        self._disks = NewDisksTarget(
            engine,
            backup,
            streams,
            storage_domain=storage_domain,
            disk_map=disk_map,
            own_names=True,
            verifier=verifier,
            notes=notes,
            notify=notify,
        )
        self.vm_id: str | None = None

    def finish(self) -> None:
        vm = create_vm(
            self._engine,
            self._configuration,
            name=self._name,
            cluster_id=self._cluster.id,
            regenerate_ids=self._regenerate,
        )
        self.vm_id = vm.id
        for stream in self._streams:
            attach_disk(
                self._engine,
                vm.id,
                self._disks.made[stream.disk_id],
                interface=stream.settings.interface or "virtio_scsi",
                bootable=stream.settings.bootable,
                active=True,
            )
        for disk in self._left_out:
            self._notify(
                f"VM {printable(self._name)} lacks disk {printable(disk.name)}, which the point does not hold: "
                f"{disk.reason}"
            )
        if self._start:
            try:
                start_vm(self._engine, vm.id)
            except PitrError as error:
                # All is restored: that is not thrown away because a host has no memory left.
                self._notify(f"the new VM is restored but does not run: {error.message} {error.advice}")

    def undo(self) -> None:
        if self.vm_id is not None:
            try:
                delete_vm(self._engine, self.vm_id)
            except PitrError as error:
                self._notify(
                    f"the new VM {self.vm_id} could not be removed: {error.message}; remove it by hand"
                )
        self._disks.undo()


def _original(engine: Engine, vm_id: str) -> VM | None:
    try:
        return get_vm(engine, vm_id)
    except NoSuchVM:
        return None


def _cluster(engine: Engine, wanted: str | None, original: VM | None, saved_name: str | None) -> Cluster:
    clusters = list_clusters(engine)
    listed = ", ".join(f"{printable(cluster.name)} ({cluster.id})" for cluster in clusters) or "none"
    if wanted is not None:
        found = [cluster for cluster in clusters if wanted in (cluster.id, cluster.name)]
        if len(found) != 1:
            raise UsageError(f"there is no cluster {wanted!r}", f"There are: {listed}.")
        return found[0]
    before = (original.cluster_id if original else None, saved_name)
    for cluster in clusters:
        if cluster.id == before[0] or (original is None and cluster.name == before[1]):
            return cluster
    if len(clusters) == 1:
        return clusters[0]
    raise UsageError("the cluster that the VM was in is not there", f"Choose one with --cluster: {listed}.")
