# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verification looks at."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from pitr.model import Backup, Stream, VMName
from pitr.repository import Repository


@dataclass(frozen=True, slots=True)
class Scope:
    """What to verify: one VM's points, one point with its chains, or (both None) everything.

    With `streams` (ids), only these streams, and all records in the scope. With `share` (number, shares), only the
    streams of this share, by their ids: all shares together have each stream once. The blobs of `spread` (stream ids)
    are not read: others read ranges of them.
    """

    vm_id: str | None = None
    backup: Backup | None = None
    streams: frozenset[str] | None = None
    share: tuple[int, int] | None = None
    spread: frozenset[str] = frozenset()

    @property
    def has_all_streams(self) -> bool:
        """Whether all streams of the points are in the scope."""
        return self.streams is None and self.share is None

    def vms(self, repository: Repository) -> list[VMName]:
        """Return the VMs whose points are in the scope."""
        if self.backup is not None:
            return [self.backup.vm]
        return [vm for vm in repository.catalog.vms() if self.vm_id in (None, vm.id)]

    def has(self, stream: Stream) -> bool:
        """Return whether the stream is in the scope, if its point is."""
        if self.streams is not None and stream.stream_id not in self.streams:
            return False
        return self.share is None or crc32(stream.stream_id.encode()) % self.share[1] == self.share[0]
