# SPDX-License-Identifier: GPL-2.0-or-later
"""Describe a backup that is ready on the engine, and the instant of its data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pitr.model import Mode


@dataclass(frozen=True, slots=True)
class BackupDisk:
    """A disk in a backup. With `incremental`, clients can read only the changed ranges."""

    disk_id: str
    incremental: bool


@dataclass(frozen=True, slots=True)
class StartedBackup:
    """A backup that is ready, as the engine reports it. All times are UTC by the engine's clock.

    The disks' data is from one instant in [lo, hi]. `checkpoint_id` is None when the engine creates no checkpoint
    because no disk is qcow2. lo and hi come from the engine's three dates.
    """

    id: str
    vm_id: str
    mode: Mode
    lo: datetime
    hi: datetime
    from_checkpoint_id: str | None
    checkpoint_id: str | None
    disks: tuple[BackupDisk, ...]
    creation_date: datetime
    ready_date: datetime
    checkpoint_date: datetime | None


def point_interval(
    mode: Mode, created: datetime, ready: datetime, checkpoint: datetime | None
) -> tuple[datetime, datetime]:
    """Return the interval [lo, hi] that contains the instant of the disks' data, from the engine's dates.

    The engine dates the checkpoint of a live backup before the instant, and of a hybrid backup after it. The
    backup's own dates enclose both. If the clock was set back, the interval is empty.
    """
    lo = checkpoint if mode is Mode.LIVE and checkpoint is not None else created
    hi = checkpoint if mode is Mode.HYBRID and checkpoint is not None else ready
    return min(lo, hi), hi
