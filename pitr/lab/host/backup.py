# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backup on the host is, whether the VM runs or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pitr.lab.host.volume import HostVolume


@dataclass(frozen=True, slots=True)
class HostBackupDisk:
    """One volume's part in a backup."""

    volume: HostVolume
    #: The bitmaps that together mark what changed since the checkpoint to read from; None for a full.
    changed: tuple[str, ...] | None
    #: The bitmap that records the guest's writes now, if there is one.
    active: str | None
    #: The name of the bitmap that takes over, when the backup makes a checkpoint of this volume.
    checkpoint: str | None


class HostBackup(Protocol):
    """A backup that is ready to be read. Whoever began it closes it."""

    @property
    def urls(self) -> Mapping[str, str]:
        """The NBD URL of each volume, by volume id."""

    def close(self) -> None:
        """Take down everything but the new checkpoint."""
