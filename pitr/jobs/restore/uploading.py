# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploads to new disks: what they share, and the removal of new disks after a failure."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.errors import NoSuchDisk, PitrError, RepositoryError
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.model import DiskSettings
from pitr.ovirt.engine import AttachmentOptions, Engine, attach_disk, delete_disk
from pitr.ovirt.engine.faults import EngineFault
from pitr.reporting import Notify
from pitr.repository import Repository, successions


@dataclass(frozen=True, slots=True)
class Uploading:
    """The engine, the notes of running uploads, and the verifier that compares each disk before its upload ends."""

    engine: Engine
    notes: UploadNotes
    notify: Notify
    verifier: Verifier | None = None


def attach_with(
    uploading: Uploading, vm_id: str, disk_id: str, settings: DiskSettings, *, bootable: bool, active: bool
) -> None:
    """Attach a disk to a VM with these settings; only `bootable` makes it the boot disk.

    If the engine refuses the rarer options, attach it without them and tell so: they depend on the storage domain.
    Raises EngineError.
    """

    def attach(options: AttachmentOptions) -> None:
        attach_disk(
            uploading.engine,
            vm_id,
            disk_id,
            interface=settings.interface or "virtio_scsi",
            bootable=bootable and settings.bootable,
            active=active,
            options=options,
        )

    wanted = AttachmentOptions(settings.read_only, settings.pass_discard, settings.uses_scsi_reservation)
    # A disk that was read-only must not become writable unnoticed.
    least = AttachmentOptions(read_only=settings.read_only)
    try:
        attach(wanted)
    except EngineFault as refusal:
        if wanted == least or refusal.status not in (400, 409):
            raise
        attach(least)
        lost = [
            name
            for name, was_set in (
                ("pass-discard", settings.pass_discard),
                ("SCSI reservation", settings.uses_scsi_reservation),
            )
            if was_set
        ]
        uploading.notify(f"disk {disk_id} is attached without {' and '.join(lost)}: {refusal.message}")


def note_succession(repository: Repository, vm_id: str, old_id: str, new_id: str, notify: Notify) -> None:
    """Note that a new disk took the place of a VM's disk, so that names and ids find both; warn if that fails."""
    try:
        successions.add(repository.store, vm_id, old_id, new_id)
    except RepositoryError as error:
        notify(
            f"cannot note in the repository that disk {new_id} takes the place of disk {old_id}: {error.message}. "
            "Later commands do not find the one by the id of the other"
        )


def remove_new_disk(engine: Engine, disk_id: str) -> str | None:
    """Remove a new disk after a failure; return a message if you must remove it by hand."""
    try:
        delete_disk(engine, disk_id)
    except NoSuchDisk:
        # The engine removes the disk of a cancelled upload.
        return None
    except PitrError as error:
        return f"cannot remove the new disk {disk_id}: {error.message}. Remove it by hand"
    return None
