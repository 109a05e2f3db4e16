# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to new disks on the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from pitr import times
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.qcow2_size import qcow2_size
from pitr.errors import Interrupted, PitrError, UsageError
from pitr.jobs.disk_settings import settings_of
from pitr.jobs.restore.aliases import choose_aliases
from pitr.jobs.restore.choice import Placement
from pitr.jobs.restore.disk_profiles import choose_profiles
from pitr.jobs.restore.late_refusal import not_attached
from pitr.jobs.restore.outcome import TargetOutcome, TargetPlace
from pitr.jobs.restore.states import disk_status, vm_as_it_is
from pitr.jobs.restore.storage_domains import place
from pitr.jobs.restore.uploading import Uploading, attach_with, remove_new_disk
from pitr.model import Backup, DiskSettings, Stream
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Disk,
    NewDisk,
    StorageDomain,
    create_disk,
    disk_exists,
    find_vm,
    list_clusters,
    list_storage_domains,
    start_upload,
    valid_alias,
    vm_disks,
)
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.text import printable

_LONGEST_DESCRIPTION = 250


class NewDisksTarget:
    """Creates a disk like the old one for each stream; attaches all to a VM at the end, if you name one.

    `attach_to` is a name or an id. With `own_names` the new disks get the old names, even where the old disks still
    exist; `old_disks` are the disks that the new ones replace, by the disk ids in the point: the new disks get their
    settings and, once they are gone, their `aliases`. Raises UsageError if a storage domain or an alias cannot be used,
    NoSuchDisk for an alias of an unknown disk, NoSuchVM.
    """

    def __init__(
        self,
        uploading: Uploading,
        backup: Backup,
        streams: Sequence[Stream],
        placement: Placement,
        *,
        attach_to: str | None = None,
        own_names: bool = False,
        old_disks: Mapping[str, Disk] | None = None,
    ) -> None:
        self._uploading = uploading
        self._engine = uploading.engine
        self._backup = backup
        old_disks = old_disks or {}
        self._settings = {
            stream.disk_id: settings_of(old_disks[stream.disk_id])
            if stream.disk_id in old_disks
            else stream.settings
            for stream in streams
        }
        streams = [replace(stream, settings=self._settings[stream.disk_id]) for stream in streams]
        domains = list_storage_domains(self._engine)
        self._domains = place(domains, streams, placement)
        self._profiles = choose_profiles(self._engine, streams, self._domains, domains, uploading.notify)
        for disk_id in uploading.notes.end_left_behind(self._engine, notify=uploading.notify):
            uploading.notify(f"ended the upload to disk {disk_id}, which a killed restore had left open")
        self._streams = list(streams)
        vm = find_vm(self._engine, attach_to) if attach_to is not None else None
        self.vm_id: str | None = vm.id if vm is not None else None
        centers = {center_id for domain in domains for center_id in domain.data_center_ids}
        if vm is not None and len(centers) > 1:
            clusters = {cluster.id: cluster for cluster in list_clusters(self._engine)}
            cluster = clusters.get(vm.cluster_id or "")
            self.check_data_center(cluster.data_center_id if cluster is not None else None)
        self._bootable = self.vm_id is None or self._can_have_boot_disk(self.vm_id)
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()
        self._kept = False
        old_names = {disk_id: disk.name for disk_id, disk in old_disks.items()}
        self.aliases = choose_aliases(streams, placement.aliases, old_names, uploading.notify)
        renamed = placement.aliases.keys() if not old_disks else set()
        self._set_apart = {
            stream.disk_id
            for stream in streams
            if not own_names
            and not renamed & {stream.disk_id, stream.name}
            and (stream.disk_id in old_disks or disk_exists(self._engine, stream.disk_id))
        }
        self._notify_changes()

    def check_data_center(self, center_id: str | None) -> None:
        """Raise UsageError if a VM in this data center (None: unknown) cannot use the storage domain of a disk."""
        for stream in self._streams:
            domain = self._domains[stream.disk_id]
            if center_id is not None and domain.data_center_ids and center_id not in domain.data_center_ids:
                raise UsageError(
                    f"the VM cannot use storage domain {printable(domain.name)}, which disk {printable(stream.name)} "
                    "would go to: it is in another data center",
                    "Choose a storage domain of the VM's data center with --storage-domain or --disk-map.",
                )

    def outcome(self) -> TargetOutcome:
        vm = vm_as_it_is(self._engine, self.vm_id) if self.vm_id is not None else None
        return TargetOutcome(self.places(), vm)

    def places(self, *, final: bool = False) -> dict[str, TargetPlace]:
        """Return where the disks go, with their first alias or the `final` one. Raises no error of the engine."""
        return {stream.disk_id: self._place(stream, final) for stream in self._streams}

    def _place(self, stream: Stream, final: bool) -> TargetPlace:
        settings, domain = self._settings[stream.disk_id], self._domains[stream.disk_id]
        new_id = self._made.get(stream.disk_id)
        return TargetPlace(
            name=self.aliases[stream.disk_id] if final else self._name(stream),
            format=_format(settings, domain),
            sparse=_sparse(settings, domain),
            available=domain.available,
            storage_domain_id=domain.id,
            storage_domain=domain.name,
            status=disk_status(self._engine, new_id) if new_id is not None else None,
        )

    def new_disk(self, stream: Stream) -> str:
        """Return the id of the disk that was created for this stream."""
        return self._made[stream.disk_id]

    def settings(self, stream: Stream) -> DiskSettings:
        """Return the settings of the disk for this stream: those of the disk that it replaces, or the stream's."""
        return self._settings[stream.disk_id]

    def reads_zero(self, stream: Stream) -> bool:
        # A new raw disk on block storage shows the old bytes of the storage.
        domain, settings = self._domains[stream.disk_id], self._settings[stream.disk_id]
        return _format(settings, domain) == "cow" or (settings.sparse and not domain.is_block)

    def present(self, stream: Stream) -> AbstractContextManager[None]:
        return nullcontext()

    def expected_name(self, stream: Stream) -> str | None:
        return None

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        with self._uploading.notes.new_disk() as disk_id:
            disk = self._create(disk_id, stream, source)
            with self._lock:
                self._made[stream.disk_id] = disk.id
            with start_upload(self._engine, disk.id) as transfer:
                address = imageio_address(self._engine, transfer)
                yield disk.id, ImageioSink(address, reads_zero=self.reads_zero(stream))
                verifier = self._uploading.verifier
                if verifier is not None:
                    # A failure cancels the upload, and the engine then removes the disk.
                    verifier.check_on_server(stream.disk_id, printable(stream.name), source, address)

    def prepare(self) -> None:
        pass

    def finish(self) -> None:
        if self.vm_id is not None:
            self.attach_all(self.vm_id)

    def attach_all(self, vm_id: str) -> None:
        """Attach all new disks to this VM, as the old ones were.

        The data is complete: if the engine refuses a disk, all disks stay. Raises NotAttached.
        """
        refusal: PitrError | None = None
        refused: dict[str, str] = {}
        for stream in self._streams:
            disk_id = self.new_disk(stream)
            try:
                self.attach(vm_id, stream, bootable=self._bootable)
            except PitrError as error:
                if isinstance(error, Interrupted):
                    raise
                refusal = refusal or error
                refused[disk_id] = self._name(stream)
        if refusal is not None:
            self._kept = True
            raise not_attached(refusal, vm_id, refused) from refusal

    def attach(self, vm_id: str, stream: Stream, *, bootable: bool, active: bool = True) -> None:
        """Attach one new disk to this VM, as the old one was; only `bootable` makes it the boot disk.

        Raises EngineError.
        """
        settings = self._settings[stream.disk_id]
        attach_with(self._uploading, vm_id, self.new_disk(stream), settings, bootable=bootable, active=active)

    @property
    def kept(self) -> bool:
        """Whether the new disks stay, although the restore failed: their data is complete."""
        return self._kept

    def undo(self) -> None:
        if self._kept:
            return
        for disk_id in self._made.values():
            problem = remove_new_disk(self._engine, disk_id)
            if problem is not None:
                self._uploading.notify(problem)

    def _create(self, disk_id: str, stream: Stream, source: Source) -> Disk:
        domain, settings = self._domains[stream.disk_id], self._settings[stream.disk_id]
        disk_format, sparse = _format(settings, domain), _sparse(settings, domain)
        description = (
            settings.description
            or f"Restored by pitr: {self._backup.vm.name} at {times.to_text(self._backup.point)}"
        )
        return create_disk(
            self._engine,
            NewDisk(
                disk_id=disk_id,
                name=self._name(stream),
                size=source.size,
                format=disk_format,
                sparse=sparse,
                storage_domain_id=domain.id,
                backup_enabled=disk_format == "cow" and settings.backup_enabled,
                description=description[:_LONGEST_DESCRIPTION],
                initial_size=qcow2_size(source.size, source.extents())
                if domain.is_block and sparse
                else None,
                disk_profile_id=self._profiles.get(stream.disk_id),
                wipe_after_delete=settings.wipe_after_delete,
                propagate_errors=settings.propagate_errors,
            ),
        )

    def _can_have_boot_disk(self, vm_id: str) -> bool:
        """Return whether the VM has no boot disk yet: the engine refuses a second one."""
        others = [disk for disk in vm_disks(self._engine, vm_id) if disk.bootable]
        for stream in self._streams if others else ():
            if self._settings[stream.disk_id].bootable:
                self._uploading.notify(
                    f"the new disk for {printable(stream.name)} will not be bootable: the VM boots from "
                    f"{printable(others[0].name)}"
                )
        return not others

    def _name(self, stream: Stream) -> str:
        """Return the first alias of the new disk, with the point's time if the old disk still exists."""
        alias = self.aliases[stream.disk_id]
        if stream.disk_id not in self._set_apart:
            return alias
        return valid_alias(alias, f"_restored_{self._backup.point:%Y%m%dT%H%M%SZ}")

    def _notify_changes(self) -> None:
        """Tell about the settings that the new disks cannot have."""
        for stream in self._streams:
            settings, domain = self._settings[stream.disk_id], self._domains[stream.disk_id]
            disk_format, name = _format(settings, domain), printable(stream.name)
            if disk_format == "cow" and settings.format == "raw":
                self._uploading.notify(
                    f"the new disk for {name} is qcow2: block storage has no thin raw disks, and storage domain "
                    f"{printable(domain.name)} is block storage"
                )
            elif _sparse(settings, domain) != settings.sparse:
                self._uploading.notify(
                    f"the new disk for {name} is thin: without incremental backup the engine preallocates no qcow2 disk"
                )


class OntoNewDisks:
    """The part of a target that writes to the new disks `_disks`; a subclass uses them once all are written."""

    _disks: NewDisksTarget

    def reads_zero(self, stream: Stream) -> bool:
        return self._disks.reads_zero(stream)

    def present(self, stream: Stream) -> AbstractContextManager[None]:
        return self._disks.present(stream)

    def expected_name(self, stream: Stream) -> str | None:
        return self._disks.expected_name(stream)

    def prepare(self) -> None:
        pass

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        return self._disks.sink(stream, source)


def _format(settings: DiskSettings, domain: StorageDomain) -> str:
    # The engine creates no sparse raw disks on block storage.
    if settings.format == "raw" and settings.sparse and domain.is_block:
        return "cow"
    return "raw" if settings.format == "raw" else "cow"


def _sparse(settings: DiskSettings, domain: StorageDomain) -> bool:
    # The engine creates preallocated qcow2 disks only with incremental backup.
    return settings.sparse or (_format(settings, domain) == "cow" and not settings.backup_enabled)
