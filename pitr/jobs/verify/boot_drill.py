# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a drill that boots a point: the proof that takes minutes, however large the disks are.

The guest runs over served disks, and writes to overlays that are removed. It reads only what it needs, with all digests
verified, so this proves the guest, and not all data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr import times
from pitr.errors import PitrError
from pitr.jobs.boot.virtual_machine import Started, Wanted, started
from pitr.jobs.boot.watch import Expected, watch
from pitr.jobs.verify.drill import damaged, partitions_of, read_only
from pitr.model import Backup, Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.drilled_boot import Boot
from pitr.repository.drills import DIGESTS, DiskFindings, Drill, Finding

_OK = {"passed": True, "failed": False, "unsure": None}


@dataclass(frozen=True, slots=True)
class BootSettings:
    """How a drill boots a point: what to wait for, the guest's memory in bytes, and the folder for overlays.

    With `workers`, it first reads all data of the disks.
    """

    expected: Expected
    memory_bytes: int | None = None
    folder: Path | None = None
    workers: int | None = None


def boot_drill(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    settings: BootSettings,
    notify: Notify,
    progress: Progress | None = None,
) -> Drill:
    """Boot these disks and return the findings; no files are left. Damage is a finding.

    Raises ProgramMissing, ProgramFailed if qemu does not start, UsageError for disks that are stored externally.
    """
    started_at = time.monotonic()
    try:
        if settings.workers is not None:
            disks = read_only(repository, backup, streams, settings.workers, progress)
        else:
            disks = [
                DiskFindings(stream.disk_id, stream.name, tuple(partitions_of(repository, backup, stream)))
                for stream in streams
            ]
        if all(disk.ok for disk in disks):
            boot, disks = _booted(repository, backup, streams, disks, settings, notify)
        else:
            boot = _not_booted()
    except StoredDamage as error:
        boot, disks = _not_booted(), damaged(streams, error)
    return Drill(
        backup_id=backup.backup_id,
        vm_id=backup.vm.id,
        time=times.now(),
        image=False,
        duration_ms=round((time.monotonic() - started_at) * 1000),
        disks=tuple(disks),
        boot=boot,
    )


def _not_booted() -> Boot:
    return Boot("failed", "screen", 0, "not booted: a disk is damaged")


def _booted(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    disks: Sequence[DiskFindings],
    settings: BootSettings,
    notify: Notify,
) -> tuple[Boot, list[DiskFindings]]:
    unreadable: list[PitrError] = []
    wanted = Wanted(memory_bytes=settings.memory_bytes, scratch=settings.folder, observed=True)
    with started(repository, backup, streams, wanted, on_unreadable=unreadable.append) as machine:
        _tell(machine, notify)
        boot = watch(machine.guest, settings.expected)
    found = Finding("boot", _OK[boot.result], boot.message)
    return boot, [
        DiskFindings(
            disk.disk_id,
            disk.name,
            (
                *disk.findings,
                *_lost(disk.disk_id, unreadable),
                *([found] if disk.disk_id == machine.boot_disk_id else []),
            ),
        )
        for disk in disks
    ]


def _tell(machine: Started, notify: Notify) -> None:
    for note in machine.notes:
        notify(note)
    if machine.accelerator == "tcg":
        notify("this machine has no usable KVM: qemu emulates the processor, which takes longer")


def _lost(disk_id: str, unreadable: Sequence[PitrError]) -> list[Finding]:
    """Return the findings about damage that the guest ran into on this disk, without repetitions."""
    messages = dict.fromkeys(
        error.message
        for error in unreadable
        if not isinstance(error, StoredDamage) or error.damage.disk_id in (disk_id, None)
    )
    return [Finding(DIGESTS, False, message) for message in list(messages)[:20]]
