# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine says of a backup that is ready, and the instant that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pitr.model import Mode


@dataclass(frozen=True, slots=True)
class BackupDisk:
    """A disk in a backup. Only with `incremental` are the unchanged ranges left out."""

    disk_id: str
    incremental: bool


@dataclass(frozen=True, slots=True)
class StartedBackup:
    """What the engine says of a backup that is ready. All times are UTC by the engine's clock.

    The disks' content is that of an instant in [lo, hi]. `checkpoint_id` is None when the engine makes none
    (no disk is qcow2). The three dates are the engine's own, from which lo and hi were taken.
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
    """Return [lo, hi] of the instant that the disks are of, from the engine's dates of one backup.

    The date of a live backup's checkpoint is set before the instant, that of a hybrid one after it; the
    backup's own dates enclose both. A clock that was set back gives an interval of no length.
    """
    lo = checkpoint if mode is Mode.LIVE and checkpoint is not None else created
    hi = checkpoint if mode is Mode.HYBRID and checkpoint is not None else ready
    return min(lo, hi), hi
