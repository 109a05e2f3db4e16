# SPDX-License-Identifier: GPL-2.0-or-later
"""Find blobs that are hardly live once some records have gone, and decide which stream copies their live frames.

A blob is used by the map of its own point while that record stays, and by points of parts. Of these, the oldest one
that is based on it sees the most of it: later points only overwrite. So that point's new stream copies the live frames,
and the later points take them from there. A point of another history may see more; then the blob stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from pitr.extents import Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import KnownLayers, ResolvedChain, frames_of, resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.virtual_full import PartKey, key_of

#: A blob is copied if less than this part of it is live.
_LIVE = 0.5


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the oldest point that uses a blob sees of it: sorted ranges of the disk, and the stored bytes of these."""

    user: str
    stream: Stream
    start: Int64Array
    end: Int64Array
    stored_bytes: float


@dataclass(slots=True)
class CompactionPlan:
    """The blobs to copy, by the id of the record whose new stream copies them, and by its disk."""

    copied: dict[str, dict[str, set[PartKey]]] = field(default_factory=dict)
    #: All points that use one of these blobs, by the blob.
    users: dict[PartKey, list[str]] = field(default_factory=dict)

    def of(self, user: str, disk_id: str) -> set[PartKey]:
        """Return the blobs whose live frames the new stream of this disk copies."""
        return self.copied.get(user, {}).get(disk_id, set())

    def concerns(self, user: str) -> bool:
        """Return whether this point uses a blob that is copied."""
        return any(user in users for users in self.users.values())


def plan_compaction(
    repository: Repository,
    users: Sequence[Backup],
    staying: AbstractSet[str],
    vm_id: str,
    known: KnownLayers,
) -> CompactionPlan:
    """Plan for one VM. `users` are its points of parts that stay or are about to be made, oldest first.

    `staying` has the ids of the streams whose blobs stay.
    """
    plan = CompactionPlan()
    for disk_id in dict.fromkeys(stream.disk_id for user in users for stream in user.streams):
        seen, used_by = _look(repository, users, disk_id, staying, known)
        weak: dict[PartKey, _Seen] = {}
        for key, first in seen.items():
            if first is None or first.stream.external is not None:
                continue
            hardly_live = first.stored_bytes < _LIVE * first.stream.own_blob.size
            if hardly_live:
                weak[key] = first
        shared = repository.catalog_of_vm(vm_id).of_other_vms(vm_id, [stream_id for _, stream_id in weak])
        for key, first in weak.items():
            if first.stream.stream_id not in shared:
                plan.copied.setdefault(first.user, {}).setdefault(disk_id, set()).add(key)
                plan.users[key] = used_by[key]
    return plan


def _look(
    repository: Repository,
    users: Sequence[Backup],
    disk_id: str,
    staying: AbstractSet[str],
    known: KnownLayers,
) -> tuple[dict[PartKey, _Seen | None], dict[PartKey, list[str]]]:
    """Return what is seen of each blob whose own record goes, and which points use it.

    None stands for a blob of which a later point sees more, or that a damaged point uses.
    """
    seen: dict[PartKey, _Seen | None] = {}
    used_by: dict[PartKey, list[str]] = {}
    for user in users:
        stream = user.stream_of(disk_id)
        if stream is None:
            continue
        try:
            resolved = resolve_chain(repository, user, stream, with_frames=True, known=known)
        except StoredDamage:
            # Nobody knows what this point sees, so all that it uses stays.
            seen |= dict.fromkeys(((part.disk_id, part.stream_id) for part in stream.parts), None)
            continue
        for key, layers in _layers_by_blob(resolved).items():
            if key[1] in staying:
                continue
            used_by.setdefault(key, []).append(user.backup_id)
            now = _seen(repository, user.backup_id, resolved, layers)
            first = seen.setdefault(key, now)
            if first is not None and not _holds(first, now):
                seen[key] = None
    return seen, used_by


def _layers_by_blob(resolved: ResolvedChain) -> dict[PartKey, list[int]]:
    found: dict[PartKey, list[int]] = {}
    for layer in resolved.map.layers_of_data():
        found.setdefault(key_of(resolved.sources[layer].stream), []).append(layer)
    return found


def _seen(repository: Repository, user: str, resolved: ResolvedChain, layers: Sequence[int]) -> _Seen:
    starts, lengths, stored = [], [], 0.0
    for layer in layers:
        rows = (resolved.map.layer == layer) & ~resolved.map.zero
        start, length = resolved.map.start[rows], resolved.map.length[rows]
        frames = resolved.frames.get(layer)
        if frames is None:
            frames = frames_of(repository, resolved.sources[layer])
        numbers = frames.numbers_of(start)
        stored += float((frames.blob_length[numbers] * (length / frames.frame_length[numbers])).sum())
        starts.append(start)
        lengths.append(length)
    start, length = np.concatenate(starts), np.concatenate(lengths)
    order = np.argsort(start)
    return _Seen(
        user,
        resolved.sources[layers[0]].stream,
        start[order],
        (start + length)[order],
        stored,
    )


def _holds(first: _Seen, later: _Seen) -> bool:
    """Return whether all ranges of `later` lie inside those of `first`, which may be cut at other places."""
    if first is later:
        return True
    # Ranges that touch count as one.
    apart = np.flatnonzero(first.start[1:] > first.end[:-1]) + 1
    start = first.start[np.concatenate(([0], apart))]
    end = first.end[np.concatenate((apart - 1, [len(first.end) - 1]))]
    at = np.searchsorted(start, later.start, side="right") - 1
    return bool((at >= 0).all() and (later.end <= end[at]).all())
