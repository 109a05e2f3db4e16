# SPDX-License-Identifier: GPL-2.0-or-later
"""Which earlier findings a check decides, because it has read the same data again."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.repository.findings import StoredFinding


@dataclass(slots=True)
class CheckedIds:
    """What a run has read: good records (backup ids), and by stream id chains, indexes, blobs (size), whole blobs.

    Of all that it reads, a run notes only the ids that earlier findings are about, which are `watched`.
    """

    watched: set[str | None] = field(default_factory=set)

    records: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    indexes: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)
    whole_blobs: set[str] = field(default_factory=set)

    def note(self, read: set[str], an_id: str) -> None:
        """Add an id to one of the sets if a finding is about it."""
        if an_id in self.watched:
            read.add(an_id)

    def add(self, other: CheckedIds) -> None:
        """Add what another run has read."""
        self.records |= other.records
        self.chains |= other.chains
        self.indexes |= other.indexes
        self.blobs |= other.blobs
        self.whole_blobs |= other.whole_blobs

    def decides(self, finding: StoredFinding) -> bool:
        """Return whether the run has read what the finding is about."""
        if finding.stream_id is None:
            return finding.backup_id in self.records
        by_size = finding.what == "blob" and finding.kind != "corrupt"
        read = {
            "parent": self.chains,
            "index": self.indexes,
            "blob": self.blobs if by_size else self.whole_blobs,
            "frame": self.whole_blobs,
        }.get(finding.what, set[str]())
        return finding.stream_id in read
