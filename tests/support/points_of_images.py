# SPDX-License-Identifier: GPL-2.0-or-later
"""Points of disks with known bytes: a full, and incrementals of the blocks that differ."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from pitr.endpoints.images.memory import MemorySource
from pitr.extents import ExtentMap
from pitr.model import Backup, Record
from pitr.repository import Repository
from tests.support.points import FIRST_POINT, backup_of, disk_id, new_stream, store_stream

_BLOCK = 1 << 16

#: The time of the n-th state, for --at.
AT = tuple(str((FIRST_POINT + timedelta(days=day)).isoformat()) for day in range(3))


def store_states(
    repository: Repository, states: Sequence[Sequence[bytes]], configuration: str | None = None
) -> list[Backup]:
    """Commit a backup for each state, a day apart; a state is the content of each disk."""
    backups: list[Backup] = []
    for number, disks in enumerate(states):
        parent = backups[-1] if backups else None
        backup_id = str(uuid.uuid4())
        streams = []
        for place, content in enumerate(disks):
            new = new_stream(
                backup_id=backup_id,
                disk_id=disk_id(place),
                name=f"disk{place}",
                parent=parent.streams[place].stream_id if parent else None,
            )
            before = states[number - 1][place] if parent else None
            streams.append(
                store_stream(repository.store, MemorySource(content, _extents(content, before)), new)
            )
        backup = backup_of(
            streams,
            backup_id=backup_id,
            point=_moment(number),
            parent_id=parent.backup_id if parent else None,
        )
        repository.commit(Record(backup, configuration))
        backups.append(backup)
    return backups


def _moment(number: int) -> datetime:
    return FIRST_POINT + timedelta(days=number)


def _extents(content: bytes, before: bytes | None) -> ExtentMap:
    assert len(content) % _BLOCK == 0
    blocks = np.frombuffer(content, np.uint8).reshape(-1, _BLOCK)
    older = None if before is None else np.frombuffer(before, np.uint8).reshape(-1, _BLOCK)
    rows = [
        (at * _BLOCK, _BLOCK, not block.any())
        for at, block in enumerate(blocks)
        if older is None or (block != older[at]).any()
    ]
    return ExtentMap.of(rows).merged()
