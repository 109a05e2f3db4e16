# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the engine's change tracking: read a sample of the unchanged ranges and compare it with the stored data.

A dirty bitmap that lost a write makes every later point wrong. No other check detects this.
"""

from __future__ import annotations

import math
import random
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pitr.copier.protocols import Reader, Source
from pitr.endpoints.points.point import StoredStream, read_frame
from pitr.errors import UntrackedChange
from pitr.extents import ExtentMap, Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository, notes
from pitr.repository.blob import FRAME_SIZE, Decompressor, digest_of
from pitr.repository.chain import ResolvedChain, frames_of, resolve_chain
from pitr.repository.index import Frames
from pitr.repository.pairs import Lists
from pitr.repository.resolver import Layer, resolve
from pitr.text import named

DEFAULT_PERCENT = 0.1
#: The smallest sample, for small disks.
_LEAST = 10
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """The ranges that the engine reports as unchanged; `piece` is the row of the parent's map that each is part of."""

    start: Int64Array
    length: Int64Array
    piece: Int64Array

    def __len__(self) -> int:
        return len(self.start)


def check_unchanged(
    repository: Repository, parent: Backup, stream: Stream, source: Source, percent: float
) -> int:
    """Compare `percent` of the frames that `source` reports as unchanged since `parent`; return how many.

    Half of the sample is at the start of the disk, where file systems and boot loaders are; the rest is random. A
    zero range counts as a frame. `stream` is the parent's stream of this disk. Raises UntrackedChange, StoredDamage.
    """
    resolved = resolve_chain(repository, parent, stream)
    unchanged = _unchanged(repository, resolved, source)
    sample = _sample(len(unchanged), percent)
    with ExitStack() as stack:
        reader = stack.enter_context(source.open_reader())
        stored = _ParentData(repository, resolved, stack)
        for number in sample:
            start, length = int(unchanged.start[number]), int(unchanged.length[number])
            piece = int(unchanged.piece[number])
            if resolved.map.zero[piece]:
                start, length = _place_in(start, length)
                same = not any(_read(reader, start, length))
            else:
                same = stored.is_same(int(resolved.map.layer[piece]), start, _read(reader, start, length))
            if not same:
                raise UntrackedChange(
                    f"disk {named(stream.name, stream.disk_id)}: {length} bytes at {start} have changed since "
                    f"backup {parent.backup_id}, but the engine reports them as unchanged",
                    "The next backup of this VM reads its disks whole. Tracked backups since the last full may lack "
                    "changes, too: check the guest's data, and look for a bug in qemu, libvirt or the storage.",
                )
    return len(sample)


class _ParentData:
    """The stored data of the parent's point. Blobs are opened on demand, and `stack` closes them."""

    def __init__(self, repository: Repository, resolved: ResolvedChain, stack: ExitStack) -> None:
        self._repository = repository
        self._resolved = resolved
        self._stack = stack
        self._frames: dict[int, Frames] = {}
        self._streams: dict[int, StoredStream] = {}
        self._decompressor = Decompressor()

    def is_same(self, layer: int, start: int, data: memoryview) -> bool:
        """Return whether this layer holds the same `data` at `start`. Raises StoredDamage."""
        if layer not in self._frames:
            self._frames[layer] = frames_of(self._repository, self._resolved.sources[layer])
        frames = self._frames[layer]
        number = int(frames.numbers_of(np.array([start]))[0])
        frame_start = frames.origin(number)
        if (frame_start, int(frames.frame_length[number])) == (start, len(data)):
            return digest_of(data) == frames.digest(number)
        # Only whole frames have digests.
        whole = read_frame(self._opened(layer), number, self._stored_frame(layer, number), self._decompressor)
        return whole[start - frame_start : start - frame_start + len(data)] == data

    def _opened(self, layer: int) -> StoredStream:
        if layer not in self._streams:
            backup, stream = self._resolved.chain[layer]
            blob = self._stack.enter_context(self._repository.open_blob(backup, stream))
            self._streams[layer] = StoredStream(backup, stream, self._frames[layer], blob)
        return self._streams[layer]

    def _stored_frame(self, layer: int, number: int) -> bytes:
        frames = self._frames[layer]
        return self._opened(layer).blob.read_at(
            int(frames.blob_offset[number]), int(frames.blob_length[number])
        )


def _unchanged(repository: Repository, resolved: ResolvedChain, source: Source) -> _Unchanged:
    """Return the ranges of the parent (parts of frames, and zero ranges) in which `source` has no extent."""
    point_map = resolved.map
    before = Layer(ExtentMap(point_map.start, point_map.length, point_map.zero), point_map.size)
    now = resolve([Layer(source.extents(), source.size), before])
    # Streams that are stored externally cannot be compared.
    external = [layer for layer, (_, stream) in enumerate(resolved.chain) if not repository.is_here(stream)]
    here = point_map.zero | ~np.isin(point_map.layer, external)
    kept = np.flatnonzero(now.layer == 1)
    kept = kept[here[now.row[kept]]]
    return _Unchanged(now.start[kept], now.length[kept], now.row[kept])


def _sample(count: int, percent: float) -> list[int]:
    wanted = min(count, max(_LEAST, math.ceil(count * percent / 100))) if percent > 0 else 0
    first = list(range(wanted // 2))
    return first + sorted(random.sample(range(len(first), count), wanted - len(first)))


def _place_in(start: int, length: int) -> tuple[int, int]:
    """Return the range itself, or a random part of it of one frame's length (start and length in bytes)."""
    if length <= FRAME_SIZE:
        return start, length
    return start + random.randrange((length - FRAME_SIZE) // _BLOCK + 1) * _BLOCK, FRAME_SIZE  # noqa: S311


def _read(reader: Reader, start: int, length: int) -> memoryview:
    view = memoryview(bytearray(length))
    reader.read_ranges([(start, length)], view)
    return view


def trust_again(repository: Repository, backup: Backup, states: Lists) -> None:
    """Trust the change tracking again of disks that were read whole, and forget disks that the VM no longer has.

    `states` lists the disks that are not trusted.
    """
    store, vm_id = repository.store, backup.vm.id
    left_out = {disk.disk_id for disk in backup.left_out}
    whole = {stream.disk_id for stream in backup.streams if stream.changes != "tracked"}
    for disk_id in notes.distrusted(states, vm_id):
        if disk_id in whole or (disk_id not in left_out and backup.stream_of(disk_id) is None):
            notes.trust_again(store, vm_id, disk_id)
