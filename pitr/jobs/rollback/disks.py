# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disks of a VM go back to which streams of a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.errors import EngineBusy, NoSuchDisk, UsageError
from pitr.jobs import find
from pitr.model import Backup, Stream
from pitr.ovirt.engine import Disk, Engine, vm_disks
from pitr.repository import Repository, successions
from pitr.text import named, printable

_RESTORE = (
    "Use 'pitr restore --replace' or 'pitr restore --to-new-disks' for it, or name other disks with --disk."
)


@dataclass(frozen=True, slots=True)
class ReturningDisk:
    """A disk of the VM, and the stream of the point that it goes back to."""

    disk: Disk
    stream: Stream

    @property
    def name(self) -> str:
        """The disk's name, safe to print."""
        return printable(self.disk.name)


def returning_disks(
    repository: Repository, engine: Engine, backup: Backup, names: Sequence[str]
) -> list[ReturningDisk]:
    """Return the disks of the point's VM that go back to the point: the named ones, or all that the point holds.

    A disk that took the place of the point's disk since counts as that disk. Raises NoSuchDisk, UsageError for a disk
    that the VM no longer has, that is shared, or that has become smaller, EngineBusy for a locked one.
    """
    attached = {disk.id: disk for disk in vm_disks(engine, backup.vm.id)}
    known = successions.of_vm(repository.store, backup.vm.id)
    found: list[ReturningDisk] = []
    for stream in find.some_streams_of(backup, names, repository):
        family = known.family([stream.disk_id])
        matches = [attached[stream.disk_id]] if stream.disk_id in attached else []
        matches = matches or [disk for disk in attached.values() if disk.id in family]
        if len(matches) != 1:
            raise UsageError(
                f"VM {printable(backup.vm.name)} has {'no' if not matches else 'several'} disks that can be disk "
                f"{named(stream.name, stream.disk_id)} of the point",
                _RESTORE,
            )
        _check(matches[0], stream)
        found.append(ReturningDisk(matches[0], stream))
    if not found:
        raise NoSuchDisk("the point holds none of the VM's disks", _RESTORE)
    return found


def _check(disk: Disk, stream: Stream) -> None:
    if disk.size < stream.size:
        raise UsageError(
            f"disk {printable(disk.name)} has {disk.size} bytes now, and had {stream.size} at the point",
            "Use 'pitr restore --replace', which makes a new disk of the size that it had.",
        )
    if disk.status == "locked":
        raise EngineBusy(
            f"disk {printable(disk.name)} is locked",
            "Wait until the other operation on the disk is complete.",
        )
    if disk.shareable:
        raise UsageError(
            f"disk {printable(disk.name)} is shareable: another VM may use it",
            "Name the other disks with --disk.",
        )
