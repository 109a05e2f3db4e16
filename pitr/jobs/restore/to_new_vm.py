# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of a whole VM: new disks, then a new VM with the saved configuration that they are attached to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pitr.errors import NoSuchVM, PitrError, UsageError
from pitr.jobs import find
from pitr.jobs.restore.choice import ToNewVM
from pitr.jobs.restore.new_vm_checks import adapted, check_name
from pitr.jobs.restore.outcome import TargetOutcome, TargetVM, Twin
from pitr.jobs.restore.states import vm_as_it_is
from pitr.jobs.restore.to_new_disks import NewDisksTarget, OntoNewDisks
from pitr.jobs.restore.uploading import Uploading, note_succession
from pitr.model import Backup, Stream
from pitr.ovirt import ovf
from pitr.ovirt.engine import (
    VM,
    Cluster,
    Engine,
    create_vm,
    delete_vm,
    get_vm,
    list_clusters,
    start_vm,
)
from pitr.repository import configurations
from pitr.text import named, printable


class NewVMTarget(OntoNewDisks):
    """Creates a VM from the saved configuration, restores the disks, and attaches them to it.

    If the point's VM still exists on the engine, the new VM gets new ids and MAC addresses; else it takes the old
    ones. Raises UsageError if the name is in use, if the point holds no configuration, or if a cluster or a storage
    domain cannot be chosen.
    """

    def __init__(
        self, uploading: Uploading, backup: Backup, streams: Sequence[Stream], choice: ToNewVM
    ) -> None:
        engine, self._repository = uploading.engine, uploading.notes.repository
        configuration = configurations.read(self._repository.store, backup)
        if configuration is None:
            raise UsageError(
                f"point {backup.backup_id} holds no VM configuration: the engine did not give one",
                "Restore the disks with --to-new-disks --attach-to VM, or choose another point.",
            )
        check_name(engine, choice.name, configuration)
        self._engine = engine
        self._name = choice.name
        self._start = choice.start
        self._no_network = choice.no_network
        self._notify = uploading.notify
        self._streams = list(streams)
        self._old_vm_id = backup.vm.id
        self._left_out = backup.left_out
        original = _original(engine, backup.vm.id)
        self._regenerate = original is not None
        self._cluster = _cluster(engine, choice.cluster, original, ovf.cluster_name(configuration))
        self._configuration = adapted(
            engine,
            configuration,
            choice.name,
            self._cluster.id,
            keep_addresses=original is None,
            no_network=choice.no_network,
            notify=uploading.notify,
        )
        self._disks = NewDisksTarget(uploading, backup, streams, choice.placement, own_names=True)
        self._disks.check_data_center(self._cluster.data_center_id)
        self.vm_id: str | None = None

    def prepare(self) -> None:
        # Without disks the engine creates the VM at once. What it refuses, it refuses before any data flows.
        vm = create_vm(
            self._engine,
            self._configuration,
            name=self._name,
            cluster_id=self._cluster.id,
            regenerate_ids=self._regenerate,
        )
        self.vm_id = vm.id

    def outcome(self) -> TargetOutcome:
        if self.vm_id is None:
            vm = TargetVM(None, self._name, "up" if self._start else None)
        else:
            vm = vm_as_it_is(self._engine, self.vm_id)
        twin = vm_as_it_is(self._engine, self._old_vm_id) if self._regenerate else None
        # Without a network, the two guests cannot meet.
        if twin is not None and twin.status is not None and not self._no_network:
            vm = replace(vm, twin=Twin(self._old_vm_id, twin.name, twin.status))
        return TargetOutcome(self._disks.places(), vm)

    def finish(self) -> None:
        if self.vm_id is None:
            raise RuntimeError("the new VM is not prepared")
        self._disks.attach_all(self.vm_id)
        if self.vm_id == self._old_vm_id:
            # The VM is back under its old id, and its next backups are of the new disks.
            for stream in self._streams:
                new_id = self._disks.new_disk(stream)
                note_succession(self._repository, self.vm_id, stream.disk_id, new_id, self._notify)
        for disk in self._left_out:
            self._notify(
                f"VM {printable(self._name)} lacks disk {printable(disk.name)}, which the point does not hold: "
                f"{disk.reason}"
            )
        if self._start:
            try:
                start_vm(self._engine, self.vm_id)
            except PitrError as error:
                # The restore is complete: a host without free memory is no reason to undo it.
                self._notify(f"the new VM is restored but does not run: {error.message}. {error.advice}")

    def undo(self) -> None:
        if self._disks.kept:
            return
        if self.vm_id is not None:
            try:
                delete_vm(self._engine, self.vm_id)
            except PitrError as error:
                self._notify(f"cannot remove the new VM {self.vm_id}: {error.message}. Remove it by hand")
        self._disks.undo()


def _original(engine: Engine, vm_id: str) -> VM | None:
    try:
        return get_vm(engine, vm_id)
    except NoSuchVM:
        return None


def _cluster(engine: Engine, wanted: str | None, original: VM | None, saved_name: str | None) -> Cluster:
    clusters = list_clusters(engine)
    listed = ", ".join(named(cluster.name, cluster.id) for cluster in clusters) or "none"
    if wanted is not None:
        chosen = find.by_id_or_name(
            wanted, "clusters", [(cluster.id, cluster.name, cluster) for cluster in clusters]
        )
        if chosen is None:
            raise UsageError(f"no cluster {wanted!r} on the engine", f"Use one of: {listed}.")
        return chosen
    for cluster in clusters:
        if original is not None and cluster.id == original.cluster_id:
            return cluster
        if original is None and cluster.name == saved_name:
            return cluster
    if len(clusters) == 1:
        return clusters[0]
    raise UsageError("the cluster of the VM does not exist", f"Choose one with --cluster: {listed}.")
