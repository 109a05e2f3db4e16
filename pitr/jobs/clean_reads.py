# SPDX-License-Identifier: GPL-2.0-or-later
"""Forget damage after a restore or a drill has read the same bytes and found them good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pitr.errors import RepositoryError, UsageError
from pitr.model import Backup, Stream
from pitr.repository import Repository, findings
from pitr.repository.chain import resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.findings import StoredFinding


def forget_what_was_read(repository: Repository, backup: Backup, streams: Sequence[Stream]) -> None:
    """Clear the findings about data that a drill or a restore has just read completely and found good.

    The caller has read all live data of these disks of the point. Frames that newer data hides were not read, and their
    findings stay. Damage of the text between frames needs `pitr verify`.
    """
    stored = findings.found_in(repository.store, backup.vm.id)
    if not stored:
        return
    try:
        clean: list[StoredFinding] = []
        for stream in streams:
            clean += _read_by(repository, backup, stream, stored)
        findings.clear(repository.store, clean)
    except (RepositoryError, StoredDamage, UsageError):
        # What is in doubt stays.
        return


def _read_by(
    repository: Repository, backup: Backup, stream: Stream, stored: Sequence[StoredFinding]
) -> Iterator[StoredFinding]:
    resolved = resolve_chain(repository, backup, stream)
    live = resolved.map
    for layer, (owner, part) in enumerate(resolved.chain):
        pieces = (live.layer == layer) & ~live.zero
        for finding in stored:
            known = (finding.stream_id, finding.backup_id)
            if known == (None, owner.backup_id):
                yield finding
            if known != (part.stream_id, owner.backup_id) or _needs_verify(finding):
                continue
            opened = bool(pieces.any()) and repository.is_here(part)
            if finding.what == "frame":
                start = live.start[pieces]
                end = start + live.length[pieces]
                if bool(np.any((start <= finding.start) & (finding.start < end))) and opened:
                    yield finding
            elif finding.what != "blob" or opened:
                yield finding


def _needs_verify(finding: StoredFinding) -> bool:
    """Return whether only `pitr verify` reads what the finding is about."""
    return finding.what == findings.ENGINE or (finding.what, finding.kind) in (
        ("blob", "corrupt"),
        ("index", "inconsistent"),
    )
