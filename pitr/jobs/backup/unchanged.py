# SPDX-License-Identifier: GPL-2.0-or-later
"""Distrust of change tracking: a sample of what is claimed unchanged is read and compared with what is stored.

A dirty bitmap that lost a write makes every later point wrong, and nothing else would ever notice.
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
from pitr.model import Backup, Kind, Stream
from pitr.repository import Repository, notes
from pitr.repository.blob import FRAME_SIZE, Decompressor, digest_of
from pitr.repository.chain import ResolvedChain, frames_of, resolve_chain
from pitr.repository.index import Frames
from pitr.repository.resolver import Layer, resolve
from pitr.text import printable

DEFAULT_PERCENT = 0.1
#: A small disk is looked at in this many places at least.
_LEAST = 10
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """Ranges that are claimed unchanged: `piece` is the piece of the parent's map that each is (a part) of."""

    start: Int64Array
    length: Int64Array
    piece: Int64Array

    def __len__(self) -> int:
        return len(self.start)


def check_unchanged(
    repository: Repository, parent: Backup, stream: Stream, source: Source, percent: float
) -> int:
    """Compare `percent` of the frames that `source` claims unchanged since `parent`; return how many were compared.

    Half of them lie at the start of the disk, where file systems and boot loaders are, the others anywhere; zero
    ranges count like frames. `stream` is the parent's of the same disk. Raises UntrackedChange, StoredDamage.
    """
    resolved = resolve_chain(repository, parent, stream)
    unchanged = _claimed(repository, resolved, source)
    sample = _sample(len(unchanged), percent)
    with ExitStack() as stack:
        reader = stack.enter_context(source.open_reader())
        stored = _Stored(repository, resolved, stack)
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
                    f"disk {printable(stream.name)} ({stream.disk_id}): {length} bytes at {start} have changed since "
                    f"backup {parent.backup_id}, and the engine says that they have not",
                    "The next backup of this VM is a full one. Incremental backups since the last full may lack "
                    "changes, too: look into the guest's data, and for a bug in qemu, libvirt or the storage.",
                )
    return len(sample)


class _Stored:
    """What is stored of the parent's point, opened as it is needed; `stack` closes it."""

    def __init__(self, repository: Repository, resolved: ResolvedChain, stack: ExitStack) -> None:
        self._repository = repository
        self._resolved = resolved
        self._stack = stack
        self._frames: dict[int, Frames] = {}
        self._streams: dict[int, StoredStream] = {}
        self._decompressor = Decompressor()

    def is_same(self, layer: int, start: int, data: memoryview) -> bool:
        """Whether the disk's `data` at `start` is what this layer holds there. Raises StoredDamage."""
        if layer not in self._frames:
            self._frames[layer] = frames_of(self._repository, *self._resolved.chain[layer])
        frames = self._frames[layer]
        number = int(np.searchsorted(frames.start, start, side="right")) - 1
        frame_start = int(frames.start[number])
        if (frame_start, int(frames.length[number])) == (start, len(data)):
            return digest_of(data) == frames.digest(number)
        # Of a part of a frame there is no digest.
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


def _claimed(repository: Repository, resolved: ResolvedChain, source: Source) -> _Unchanged:
    """The parts of frames and the zero ranges of the parent that `source` has no extent in."""
    point_map = resolved.map
    before = Layer(ExtentMap(point_map.start, point_map.length, point_map.zero), point_map.size)
    now = resolve([Layer(source.extents(), source.size), before])
    # What was piped out is not here to be compared with.
    elsewhere = [layer for layer, (_, stream) in enumerate(resolved.chain) if not repository.is_here(stream)]
    here = point_map.zero | ~np.isin(point_map.layer, elsewhere)
    kept = np.flatnonzero(now.layer == 1)
    kept = kept[here[now.row[kept]]]
    return _Unchanged(now.start[kept], now.length[kept], now.row[kept])


def _sample(count: int, percent: float) -> list[int]:
    wanted = min(count, max(_LEAST, math.ceil(count * percent / 100))) if percent > 0 else 0
    first = list(range(wanted // 2))
    return first + sorted(random.sample(range(len(first), count), wanted - len(first)))


def _place_in(start: int, length: int) -> tuple[int, int]:
    """A part of a long zero range: no more than a frame, anywhere in it."""
    if length <= FRAME_SIZE:
        return start, length
    return start + random.randrange((length - FRAME_SIZE) // _BLOCK + 1) * _BLOCK, FRAME_SIZE  # noqa: S311


def _read(reader: Reader, start: int, length: int) -> memoryview:
    view = memoryview(bytearray(length))
    reader.read_ranges([(start, length)], view)
    return view


def trust_again(repository: Repository, backup: Backup) -> None:
    """Forget what was said against disks of which there is a new full, and against those that the VM lost."""
    store, vm_id = repository.store, backup.vm.id
    left_out = {disk.disk_id for disk in backup.left_out}
    full = {stream.disk_id for stream in backup.streams if stream.kind is Kind.FULL}
    for disk_id in set(notes.distrusted(store, vm_id)):
        if disk_id in full or (disk_id not in left_out and backup.stream_of(disk_id) is None):
            notes.trust_again(store, vm_id, disk_id)
