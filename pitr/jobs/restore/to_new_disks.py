# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring to new disks on the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from pitr import times
from pitr.copier.protocols import Sink, Source
from pitr.errors import NoSuchDisk, PitrError
from pitr.jobs.backup.one_vm import Notify
from pitr.jobs.restore.storage_domains import place
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.model import Backup, Stream
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Engine,
    NewDisk,
    StorageDomain,
    attach_disk,
    create_disk,
    delete_disk,
    find_vm,
    get_disk,
    list_storage_domains,
    start_upload,
)
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.text import printable


class NewDisksTarget:
    """A new disk for each disk of the point, like the old one; attached to a VM when all are restored, if wanted.

    `storage_domain` is a name or an id; when None, where the old disk was, else the only active data domain.
    `disk_map` names other domains for some disks (pitr.jobs.restore.storage_domains). With `own_names` the new disks
    are named as the old ones even where those are still there. With a `verifier` each disk is compared before its
    upload ends.
    Raises UsageError when there is no way to choose a domain, NoSuchVM.
    """

    vm_id: str | None = None

    def __init__(
        self,
        engine: Engine,
        backup: Backup,
        streams: Sequence[Stream],
        *,
        storage_domain: str | None,
        attach_to: str | None = None,
        disk_map: Mapping[str, str] | None = None,
        own_names: bool = False,
        verifier: Verifier | None = None,
        notes: UploadNotes,
        notify: Notify,
    ) -> None:
        self._engine = engine
        self._backup = backup
        self._notify = notify
        self._own_names = own_names
        self._verifier = verifier
        self._notes = notes
        self._domains = place(list_storage_domains(engine), streams, storage_domain, disk_map or {})
        for disk_id in notes.end_left_behind(engine, notify=notify):
            notify(
                f"ended the upload to disk {disk_id}, which an earlier restore had left open on the engine"
            )
        self._streams = list(streams)
        self._vm = find_vm(engine, attach_to) if attach_to is not None else None
        self.vm_id = self._vm.id if self._vm is not None else None
        self.made: dict[str, str] = {}
        """The new disks' ids, by those of the old ones."""
        self._lock = threading.Lock()

    def reads_zero(self, stream: Stream) -> bool:
        # A raw disk on block storage is what the storage held there before.
        domain = self._domains[stream.disk_id]
        return _format(stream, domain) == "cow" or (stream.settings.sparse and not domain.is_block)

    def expected_name(self, stream: Stream) -> str | None:
        return None

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        domain = self._domains[stream.disk_id]
        disk_format = _format(stream, domain)
        sparse = stream.settings.sparse or disk_format == "cow"
        with self._notes.new_disk() as disk_id:
            disk = create_disk(
                self._engine,
                NewDisk(
                    disk_id=disk_id,
                    name=self._name(stream),
                    size=source.size,
                    format=disk_format,
                    sparse=sparse,
                    storage_domain_id=domain.id,
                    backup_enabled=disk_format == "cow" and stream.settings.backup_enabled,
                    description=f"Restored by pitr: {self._backup.vm.name} at {times.to_text(self._backup.point)}"[
                        :250
                    ],
                    initial_size=source.extents().data_bytes if domain.is_block and sparse else None,
                ),
            )
            with self._lock:
                self.made[stream.disk_id] = disk.id
            with start_upload(self._engine, disk.id) as transfer:
                address = imageio_address(self._engine, transfer)
                yield disk.id, ImageioSink(address, reads_zero=self.reads_zero(stream))
                if self._verifier is not None:
                    # A failure cancels the upload, and the disk goes with it.
                    self._verifier.check_on_server(stream.disk_id, printable(stream.name), source, address)

    def finish(self) -> None:
        if self._vm is None:
            return
        for stream in self._streams:
            attach_disk(
                self._engine,
                self._vm.id,
                self.made[stream.disk_id],
                interface=stream.settings.interface or "virtio_scsi",
                bootable=stream.settings.bootable,
                active=True,
            )

    def undo(self) -> None:
        """Remove all new disks; a cancelled upload has removed its own already."""
        for disk_id in self.made.values():
            try:
                delete_disk(self._engine, disk_id)
            except NoSuchDisk:
                continue
            except PitrError as error:
                self._notify(
                    f"the new disk {disk_id} could not be removed: {error.message}; remove it by hand"
                )

    def _name(self, stream: Stream) -> str:
        """The old name; where the old disk is still there, with the point's time, so that nobody mixes them up."""
        if self._own_names:
            return stream.name
        try:
            get_disk(self._engine, stream.disk_id)
        except NoSuchDisk:
            return stream.name
        return f"{stream.name}_restored_{self._backup.point:%Y%m%dT%H%M%SZ}"


class OntoNewDisks:
    """What is common to targets that do something with new disks once all are written: `_disks` takes the data."""

    _disks: NewDisksTarget

    def reads_zero(self, stream: Stream) -> bool:
        return self._disks.reads_zero(stream)

    def expected_name(self, stream: Stream) -> str | None:
        return self._disks.expected_name(stream)

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        return self._disks.sink(stream, source)


def _format(stream: Stream, domain: StorageDomain) -> str:
    # The engine makes no sparse raw disks on block storage.
    if stream.settings.format == "raw" and stream.settings.sparse and domain.is_block:
        return "cow"
    return "raw" if stream.settings.format == "raw" else "cow"
