# SPDX-License-Identifier: GPL-2.0-or-later
"""The common interface of live and cold backups on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pitr.lab.host.volume import HostVolume


@dataclass(frozen=True, slots=True)
class HostBackupDisk:
    """One volume in a backup."""

    volume: HostVolume
    #: The bitmaps that together mark the changes since the base checkpoint; None for a full backup.
    changed: tuple[str, ...] | None
    #: The bitmap that records the guest's writes now, if there is one.
    active: str | None
    #: The name of the new active bitmap, if the backup creates a checkpoint of this volume.
    checkpoint: str | None


class HostBackup(Protocol):
    """A backup that clients can read. The caller that started it closes it."""

    @property
    def urls(self) -> Mapping[str, str]:
        """The NBD URL of each volume, by volume id."""

    def close(self) -> None:
        """Remove everything except the new checkpoint."""
