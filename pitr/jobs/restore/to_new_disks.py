# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to new disks on the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from pitr import times
from pitr.copier.protocols import Sink, Source
from pitr.errors import NoSuchDisk
from pitr.jobs.restore.choice import Placement
from pitr.jobs.restore.storage_domains import place
from pitr.jobs.restore.uploading import Uploading, attach_restored, remove_new_disk
from pitr.model import Backup, Stream
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Disk,
    NewDisk,
    StorageDomain,
    create_disk,
    find_vm,
    get_disk,
    list_storage_domains,
    start_upload,
)
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.text import printable

_LONGEST_DESCRIPTION = 250


class NewDisksTarget:
    """Creates a disk like the old one for each stream; attaches all to a VM at the end, if you name one.

    `attach_to` is a name or an id. With `own_names` the new disks get the old names, even where the old disks still
    exist. Raises UsageError if a storage domain cannot be chosen, NoSuchVM.
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
    ) -> None:
        self._uploading = uploading
        self._engine = uploading.engine
        self._backup = backup
        self._own_names = own_names
        self._domains = place(list_storage_domains(self._engine), streams, placement)
        for disk_id in uploading.notes.end_left_behind(self._engine, notify=uploading.notify):
            uploading.notify(f"ended the upload to disk {disk_id}, which a killed restore had left open")
        self._streams = list(streams)
        self.vm_id: str | None = find_vm(self._engine, attach_to).id if attach_to is not None else None
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()

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

    def finish(self) -> None:
        if self.vm_id is not None:
            self.attach_all(self.vm_id)

    def attach_all(self, vm_id: str) -> None:
        """Attach all new disks to this VM, as the old ones were. Raises EngineError."""
        for stream in self._streams:
            attach_restored(self._engine, vm_id, self.new_disk(stream), stream)

    def undo(self) -> None:
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
                name=self._name(stream),
                size=source.size,
                format=disk_format,
                sparse=sparse,
                storage_domain_id=domain.id,
                backup_enabled=disk_format == "cow" and stream.settings.backup_enabled,
                description=description[:_LONGEST_DESCRIPTION],
                initial_size=source.extents().data_bytes if domain.is_block and sparse else None,
            ),
        )

    def _name(self, stream: Stream) -> str:
        """Return the old name; if the old disk still exists, with the point's time, so that the two differ."""
        if self._own_names:
            return stream.name
        try:
            get_disk(self._engine, stream.disk_id)
        except NoSuchDisk:
            return stream.name
        return f"{stream.name}_restored_{self._backup.point:%Y%m%dT%H%M%SZ}"


class OntoNewDisks:
    """The part of a target that writes to the new disks `_disks`; a subclass uses them once all are written."""

    _disks: NewDisksTarget

    def reads_zero(self, stream: Stream) -> bool:
        return self._disks.reads_zero(stream)

    def expected_name(self, stream: Stream) -> str | None:
        return self._disks.expected_name(stream)

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        return self._disks.sink(stream, source)


def _format(stream: Stream, domain: StorageDomain) -> str:
    # The engine creates no sparse raw disks on block storage.
    if stream.settings.format == "raw" and stream.settings.sparse and domain.is_block:
        return "cow"
    return "raw" if stream.settings.format == "raw" else "cow"
