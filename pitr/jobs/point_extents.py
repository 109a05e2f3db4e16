# SPDX-License-Identifier: GPL-2.0-or-later
"""List the ranges of a disk at a point, with the backup that each range comes from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import resolve_chain


class Range(NamedTuple):
    """A range in bytes; `backup_id` is None if the range was never written."""

    start: int
    length: int
    zero: bool
    backup_id: str | None


def ranges(repository: Repository, backup: Backup, stream: Stream) -> list[Range]:
    """Return the ranges of the whole disk in order, with equal neighbors joined. Raises StoredDamage."""
    resolved = resolve_chain(repository, backup, stream)
    point_map = resolved.map
    if len(point_map) == 0:
        return []
    first = np.ones(len(point_map), np.bool_)
    first[1:] = (point_map.layer[1:] != point_map.layer[:-1]) | (point_map.zero[1:] != point_map.zero[:-1])
    at = np.flatnonzero(first)
    starts = point_map.start[at]
    lengths = np.diff(np.append(starts, point_map.size))
    return [
        Range(start, length, zero, resolved.chain[layer][0].backup_id if layer >= 0 else None)
        for start, length, zero, layer in zip(
            starts.tolist(),
            lengths.tolist(),
            point_map.zero[at].tolist(),
            point_map.layer[at].tolist(),
            strict=True,
        )
    ]
