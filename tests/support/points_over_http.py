# SPDX-License-Identifier: GPL-2.0-or-later
"""Points to read, and actions of other programs on an engine: backups and transfers with its SDK."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.lab import Lab, LabVM
from pitr.ovirt import engine
from pitr.ovirt.engine import Engine, EngineConfig
from tests.support.pitr import Pitr


@dataclass
class Points:
    """Points of one VM, oldest first, with a copy of each disk at each point."""

    vm: LabVM
    folder: Path
    points: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, vm: LabVM, folder: Path) -> Points:
        return cls(vm, folder)

    def back_up(self, lab: Lab, pitr: Pitr) -> None:
        number = len(self.points)
        for disk in self.vm.disks:
            lab.disk(disk.id).copy_content(self.oracle(number, disk.name))
        self.points.append(pitr.backup(self.vm.name, "--incremental"))

    def oracle(self, number: int, disk: str) -> Path:
        return self.folder / f"{disk}-{number}"

    def id(self, number: int) -> str:
        found: str = self.points[number]["backup_id"]
        return found

    def path(self, number: int, disk: str) -> str:
        return f"/points/{self.id(number)}/disks/{disk}"


@contextmanager
def connected(lab: Lab) -> Iterator[Engine]:
    """A vendor's program: it has its own login."""
    config = EngineConfig(f"{lab.engine_url}/ovirt-engine/api", lab.username, lab.password, lab.cafile)
    with Engine(config, poll_interval_s=0.02) as found:
        yield found


@contextmanager
def backup(lab: Lab, vm: LabVM, from_checkpoint: str | None = None) -> Iterator[tuple[Engine, str, str]]:
    """A running backup that another program has started: the engine, its id and the id of its checkpoint."""
    with connected(lab) as found:
        running = engine.start_backup(
            found,
            engine.get_vm(found, vm.id),
            engine.BackupRequest(
                tuple(disk.id for disk in vm.disks), str(uuid.uuid4()), from_checkpoint_id=from_checkpoint
            ),
        )
        with running:
            started = running.started
            assert started.checkpoint_id is not None
            yield found, started.id, started.checkpoint_id
