# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of a backup."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.jobs.backup.pipe_out import PipingOut
from pitr.jobs.backup.unchanged import DEFAULT_PERCENT
from pitr.repository.blob import DEFAULT_LEVEL


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to back up. Without `full` and `incremental`, the backup is incremental if possible.

    `disks`: names or ids of the disks to back up; all if empty. `exclude_disks`: disks to leave out. `fallback`: take
    a full if no requested incremental is possible; otherwise fail. `check_unchanged`: compare this percentage of the
    unchanged ranges with the stored data. `busy_wait_s`: wait this long for VMs that are busy on the engine.
    `full_every`: take a full if the last one is that old. `like`: the VM (name or id) whose stored frames the first
    backup of a disk uses; None for the VMs of the same template. `task_id`: the task that the backup belongs to; if a
    run of the same task has made the point already, it is the result (pitr/jobs/backup/task_ids.py).
    """

    full: bool = False
    incremental: bool = False
    fallback: bool = True
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    require_consistency: bool = False
    level: int = DEFAULT_LEVEL
    workers: int = DEFAULT_WORKERS
    piping_out: PipingOut | None = None
    check_unchanged: float = DEFAULT_PERCENT
    busy_wait_s: float = 0.0
    full_every: timedelta | None = None
    like: str | None = None
    task_id: str | None = None
