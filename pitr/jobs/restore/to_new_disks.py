# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to new disks on the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from pitr import times
from pitr.copier.protocols import Sink, Source
from pitr.errors import Interrupted, PitrError
from pitr.jobs.restore.aliases import choose_aliases
from pitr.jobs.restore.choice import Placement
from pitr.jobs.restore.late_refusal import not_attached
from pitr.jobs.restore.storage_domains import place
from pitr.jobs.restore.uploading import Uploading, attach_restored, remove_new_disk
from pitr.model import Backup, Stream
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Disk,
    NewDisk,
    StorageDomain,
    create_disk,
    disk_exists,
    find_vm,
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
    exist; `old_names` are the disks' current names by disk id, where they differ from the point's. Raises UsageError
    if a storage domain or an alias cannot be used, NoSuchDisk for an alias of an unknown disk, NoSuchVM.
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
        old_names: Mapping[str, str] | None = None,
    ) -> None:
        self._uploading = uploading
        self._engine = uploading.engine
        self._backup = backup
        self._domains = place(list_storage_domains(self._engine), streams, placement)
        for disk_id in uploading.notes.end_left_behind(self._engine, notify=uploading.notify):
            uploading.notify(f"ended the upload to disk {disk_id}, which a killed restore had left open")
        self._streams = list(streams)
        self.vm_id: str | None = find_vm(self._engine, attach_to).id if attach_to is not None else None
        self._bootable = self.vm_id is None or self._can_have_boot_disk(self.vm_id)
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()
        self._kept = False
        self._aliases = choose_aliases(streams, placement.aliases, old_names or {}, uploading.notify)
        if not own_names:
            self._set_apart(placement)

    def new_disk(self, stream: Stream) -> str:
        """Return the id of the disk that was created for this stream."""
        return self._made[stream.disk_id]

    def reads_zero(self, stream: Stream) -> bool:
        # A new raw disk on block storage shows the old bytes of the storage.
        domain = self._domains[stream.disk_id]
        return _format(stream, domain) == "cow" or (stream.settings.sparse and not domain.is_block)

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
                attach_restored(self._engine, vm_id, disk_id, stream, bootable=self._bootable)
            except PitrError as error:
                if isinstance(error, Interrupted):
                    raise
                refusal = refusal or error
                refused[disk_id] = self._aliases[stream.disk_id]
        if refusal is not None:
            self._kept = True
            raise not_attached(refusal, vm_id, refused) from refusal

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
        domain = self._domains[stream.disk_id]
        disk_format = _format(stream, domain)
        sparse = stream.settings.sparse or disk_format == "cow"
        description = f"Restored by pitr: {self._backup.vm.name} at {times.to_text(self._backup.point)}"
        return create_disk(
            self._engine,
            NewDisk(
                disk_id=disk_id,
                name=self._aliases[stream.disk_id],
                size=source.size,
                format=disk_format,
                sparse=sparse,
                storage_domain_id=domain.id,
                backup_enabled=disk_format == "cow" and stream.settings.backup_enabled,
                description=description[:_LONGEST_DESCRIPTION],
                initial_size=source.extents().data_bytes if domain.is_block and sparse else None,
            ),
        )

    def _can_have_boot_disk(self, vm_id: str) -> bool:
        """Return whether the VM has no boot disk yet: the engine refuses a second one."""
        others = [disk for disk in vm_disks(self._engine, vm_id) if disk.bootable]
        for stream in self._streams if others else ():
            if stream.settings.bootable:
                self._uploading.notify(
                    f"the new disk for {printable(stream.name)} will not be bootable: the VM boots from "
                    f"{printable(others[0].name)}"
                )
        return not others

    def _set_apart(self, placement: Placement) -> None:
        """Add the point's time to the alias of each new disk whose old disk still exists, so that the two differ."""
        suffix = f"_restored_{self._backup.point:%Y%m%dT%H%M%SZ}"
        for stream in self._streams:
            chosen = placement.aliases.keys() & {stream.disk_id, stream.name}
            if not chosen and disk_exists(self._engine, stream.disk_id):
                self._aliases[stream.disk_id] = valid_alias(self._aliases[stream.disk_id], suffix)


class OntoNewDisks:
    """The part of a target that writes to the new disks `_disks`; a subclass uses them once all are written."""

    _disks: NewDisksTarget

    def reads_zero(self, stream: Stream) -> bool:
        return self._disks.reads_zero(stream)

    def expected_name(self, stream: Stream) -> str | None:
        return self._disks.expected_name(stream)

    def prepare(self) -> None:
        pass

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        return self._disks.sink(stream, source)


def _format(stream: Stream, domain: StorageDomain) -> str:
    # The engine creates no sparse raw disks on block storage.
    if stream.settings.format == "raw" and stream.settings.sparse and domain.is_block:
        return "cow"
    return "raw" if stream.settings.format == "raw" else "cow"
