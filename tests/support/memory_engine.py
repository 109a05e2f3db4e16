# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine in memory under the real backup job: what is tested with it is what the repository goes through.

Disks are bytearrays, checkpoints are copies of them, dirty extents are the blocks that differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pitr.endpoints.images.memory import MemorySource
from pitr.extents import ExtentMap
from pitr.jobs.backup import base, one_disk
from pitr.jobs.backup import one_vm as job
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.upkeep import leftovers
from pitr.model import Backup, Mode
from pitr.ovirt.engine import VM, BackupRequest, Checkpoint, Disk, Engine, StartedBackup
from pitr.ovirt.engine.started_backup import BackupDisk
from pitr.repository import Repository

BLOCK = 4096
_START = datetime(2020, 6, 29, 20, 0, tzinfo=UTC)


@dataclass
class MemoryVM:
    """A VM: its disks by id, and what they held at each checkpoint, root to leaf."""

    id: str
    name: str
    disks: dict[str, bytearray]
    checkpoints: dict[str, dict[str, bytes]] = field(default_factory=dict)


class MemoryEngine:
    """Stands in for the package pitr.ovirt.engine and for imageio; `install` puts it there."""

    poll_interval_s = 0.0
    config = SimpleNamespace(cafile=None, secure=True)

    def __init__(self) -> None:
        self.vms: dict[str, MemoryVM] = {}
        self.backups = 0
        self.lying_tracker = False
        self._sources: dict[str, tuple[bytes, bytes | None]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        functions = EngineFunctions(self)
        for module in (job, base, one_disk, leftovers):
            for name in dir(functions):
                if not name.startswith("_") and hasattr(module, name):
                    # Looked up at each call: tests replace functions of the class.
                    monkeypatch.setattr(module, name, partial(functions.call, name))
        monkeypatch.setattr(one_disk, "imageio_address", lambda engine, transfer: transfer.transfer_url)
        monkeypatch.setattr(one_disk, "ImageioSource", self.source)

    def add_vm(self, name: str, *disks: bytes) -> MemoryVM:
        number = len(self.vms) + 1
        vm = MemoryVM(
            f"00000000-0000-4000-8000-00000000000{number}",
            name,
            {
                f"00000000-0000-4000-9{number:03}-00000000000{at}": bytearray(disk)
                for at, disk in enumerate(disks)
            },
        )
        self.vms[vm.id] = vm
        return vm

    def back_up(self, repository: Repository, vm: MemoryVM, **options: Any) -> Backup:
        engine = cast(Engine, self)
        return job.back_up(
            repository, engine, vm.id, BackupOptions(workers=2, **options), notify=lambda line: None
        )

    def source(self, url: str, context: str, **_: Any) -> MemorySource:
        content, before = self._sources[url]
        extents = None if context == "zero" or before is None else self._dirty(content, before)
        return MemorySource(content, extents)

    def _dirty(self, content: bytes, before: bytes) -> ExtentMap:
        rows = []
        for start in range(0, len(content), BLOCK):
            block = content[start : start + BLOCK]
            if block != before[start : start + BLOCK] and not (self.lying_tracker and start == 0):
                rows.append((start, len(block), not any(block)))
        return ExtentMap.of(rows).merged()


class EngineFunctions:
    """What the backup job calls of pitr.ovirt.engine."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def call(self, name: str, *args: Any, **named: Any) -> Any:
        return getattr(self, name)(*args, **named)

    def find_vm(self, engine: MemoryEngine, name: str) -> VM:
        vm = engine.vms[name]
        return SimpleNamespace(id=vm.id, name=vm.name, running=True)  # type: ignore[return-value]

    def vm_disks(self, engine: MemoryEngine, vm_id: str) -> list[Disk]:
        return [_disk(disk_id, len(disk)) for disk_id, disk in engine.vms[vm_id].disks.items()]

    def list_checkpoints(self, engine: MemoryEngine, vm_id: str) -> list[Checkpoint]:
        return [Checkpoint(name, None, _START, True) for name in engine.vms[vm_id].checkpoints]

    def delete_checkpoint(self, engine: MemoryEngine, vm_id: str, checkpoint_id: str) -> None:
        engine.vms[vm_id].checkpoints.pop(checkpoint_id, None)

    def get_configuration(self, engine: MemoryEngine, vm_id: str) -> str:
        return "<ovf/>"

    def end_leftovers(self, engine: MemoryEngine, vm: VM, backup_id: str) -> bool:
        return False

    def leftover_checkpoint(self, engine: MemoryEngine, vm: VM, backup_id: str) -> None:
        return None

    def start_backup(self, engine: MemoryEngine, vm: VM, request: BackupRequest, **_: Any) -> _Running:
        return _Running(
            engine,
            engine.vms[vm.id],
            list(request.disk_ids),
            request.backup_id,
            request.from_checkpoint_id,
        )

    @contextmanager
    def start_download(self, engine: MemoryEngine, disk_id: str, *, backup_id: str) -> Iterator[Any]:
        yield SimpleNamespace(transfer_url=f"{backup_id}/{disk_id}", proxy_url=None)


class _Running:
    def __init__(
        self,
        engine: MemoryEngine,
        vm: MemoryVM,
        disk_ids: list[str],
        backup_id: str,
        from_checkpoint: str | None,
    ) -> None:
        self._engine, self._vm, self._disk_ids = engine, vm, disk_ids
        self.id, self._from = backup_id, from_checkpoint
        self.succeeded: bool | None = None

    def __enter__(self) -> _Running:
        engine, vm = self._engine, self._vm
        before = vm.checkpoints.get(self._from or "", {})
        for disk_id in self._disk_ids:
            engine._sources[f"{self.id}/{disk_id}"] = (bytes(vm.disks[disk_id]), before.get(disk_id))
        checkpoint = str(uuid.uuid4())
        vm.checkpoints[checkpoint] = {disk_id: bytes(vm.disks[disk_id]) for disk_id in self._disk_ids}
        engine.backups += 1
        moment = _START + timedelta(minutes=engine.backups)
        self.started = StartedBackup(
            id=self.id,
            vm_id=vm.id,
            mode=Mode.LIVE,
            lo=moment,
            hi=moment,
            from_checkpoint_id=self._from,
            checkpoint_id=checkpoint,
            disks=tuple(BackupDisk(disk_id, disk_id in before) for disk_id in self._disk_ids),
            creation_date=moment,
            ready_date=moment,
            checkpoint_date=moment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.succeeded = True

    def checkpoint_id(self) -> str | None:
        return self.started.checkpoint_id if hasattr(self, "started") else None

    def has_ended(self) -> bool:
        return True

    def check_still_ready(self) -> None:
        pass


def _disk(disk_id: str, size: int) -> Disk:
    return Disk(
        id=disk_id,
        name=f"disk-{disk_id[-1]}",
        size=size,
        format="cow",
        sparse=True,
        interface="virtio_scsi",
        bootable=False,
        active=True,
        backup_enabled=True,
        storage_type="image",
        content_type="data",
        shareable=False,
        storage_domain_ids=("00000000-0000-4000-a000-000000000000",),
        status="ok",
    )
