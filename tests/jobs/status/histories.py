# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories of a VM's changes: simulated, and as records in a repository."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pitr import times
from pitr.model import Backup, Record, StoredObject, VMName
from pitr.repository import Repository
from pitr.repository.catalog.changes import Change
from tests.support.points import VM, backup_of, fake_stream

GiB = 1 << 30
START = datetime(2020, 1, 1, 22, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Night:
    """One backup: changed bytes, and stored bytes for each byte of data."""

    changed: float
    ratio: float = 0.4
    kind: str = "incremental"


def simulated(
    nights: int, changed: Callable[[int, random.Random], float], *, seed: int = 0, ratio: float = 0.4
) -> list[Night]:
    """Nights that change `changed(number, chance)` bytes, and compress to about `ratio`."""
    chance = random.Random(seed)
    return [
        Night(changed(number, chance), min(1.0, max(0.05, chance.gauss(ratio, 0.05))))
        for number in range(nights)
    ]


def changes(
    nights: Sequence[Night], *, size: int = 100 * GiB, gap: timedelta = DAY, pauses: Sequence[int] = ()
) -> list[Change]:
    """The changes of points of these nights; ten gaps more before the nights in `pauses`."""
    made = []
    time = START
    for number, night in enumerate(nights):
        time += gap * (11 if number in pauses else 1)
        data = int(night.changed * 0.95)
        zero = int(night.changed) - data
        stored = int(data * night.ratio)
        made.append(Change(str(number), times.to_sortable(time), night.kind, None, data, zero, stored, size))
    return made


def store(
    repository: Repository,
    nights: Sequence[Night],
    *,
    vm: VMName = VM,
    size: int = 100 * GiB,
    start: datetime = START,
    gap: timedelta = DAY,
    full_every: int = 0,
) -> list[Backup]:
    """Commit a full and an incremental for each night: records only, without streams."""
    made: list[Backup] = []
    first = replace(fake_stream(), size=size, disk_id=str(uuid.uuid4()), data_bytes=size // 4)
    for number, night in enumerate([Night(size, kind="full"), *nights]):
        full = night.kind == "full" or (full_every and number % full_every == 0)
        parent = None if full else made[-1]
        data = int(night.changed * 0.95) if parent else size // 4
        stream = replace(
            first,
            stream_id=str(uuid.uuid4()),
            kind=fake_stream(parent=None if full else "x").kind,
            parent_stream_id=parent.streams[0].stream_id if parent else None,
            data_bytes=data,
            zero_bytes=int(night.changed) - data if parent else size - data,
            blob=StoredObject(int(data * night.ratio), "ab" * 32),
        )
        backup = backup_of(
            [stream], vm=vm, point=start + number * gap, parent_id=parent.backup_id if parent else None
        )
        backup = replace(backup, left_out=())
        repository.commit(Record(backup, None))
        made.append(backup)
    return made
