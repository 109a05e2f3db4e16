# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rollback has done, and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.model import Backup
from pitr.ovirt.engine import Engine
from pitr.reporting import Notify, Progress
from pitr.repository import Repository


@dataclass(frozen=True, slots=True)
class RollbackOptions:
    """How to go back.

    `disks`: names or ids; all disks of the point if empty. `in_place`: write into the VM's own disks. `stop`: shut the
    VM down first. `start`: start it at the end.
    """

    disks: tuple[str, ...] = ()
    in_place: bool = False
    stop: bool = False
    start: bool = False
    dry_run: bool = False
    workers: int = DEFAULT_WORKERS


@dataclass(frozen=True, slots=True)
class RollbackWatch:
    """Who is told of a rollback: lines for people, and the progress of each of its parts."""

    notify: Notify
    progress: Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True, slots=True)
class RollbackContext:
    """What all parts of a rollback use."""

    repository: Repository
    engine: Engine
    options: RollbackOptions
    watch: RollbackWatch


@dataclass(frozen=True, slots=True)
class RolledBackDisk:
    """One disk after a rollback: `disk_id` is now in the VM. All sizes are bytes.

    `verified`: the server's checksum of the whole disk was that of the point. `old_disk_id` is the disk that was left.
    """

    disk_id: str
    name: str
    differing_bytes: int
    bytes_written: int
    bytes_zeroed: int
    duration_s: float
    verified: bool
    old_disk_id: str | None = None


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The result of a rollback to `point`. `undo_point` is the state before it; None for a dry run."""

    point: Backup
    undo_point: Backup | None
    disks: Sequence[RolledBackDisk]
    in_place: bool
    dry_run: bool = False
