# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point whose blobs can only be read front to back: from tapes, through commands.

Each blob that holds live data is read once, from its beginning. Frames that newer streams hide are skipped, and the
digest of each live frame is compared before its bytes pass. The oldest blob passes first, so the data does not pass in
the order of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from pitr.copier.protocols import Reader
from pitr.copier.streamed import Passing, cut
from pitr.endpoints.points.point import Needed, verified_frame
from pitr.endpoints.points.salvage import DamagedRange, joined, known_layers, lost_pieces
from pitr.errors import PitrError, ProgramFailed, RepositoryError, UsageError
from pitr.extents import Extent, ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import Decompressor
from pitr.repository.chain import frames_of, resolve_chain
from pitr.repository.damage import DamageKind, StoredDamage, of_stream
from pitr.repository.index import Frames
from pitr.repository.layers import LayerSource
from pitr.repository.resolver import PointMap, resolve

_SKIP_PIECE = 1 << 20

OpenBlob = Callable[[Backup, Stream], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, slots=True)
class _Live:
    """The live pieces of one stream, in the order of the disk: their ranges, and the numbers of their frames."""

    start: list[int]
    length: list[int]
    frame: list[int]


class ChainStream:
    """The disk of a point as a stream. `open_blob` opens a blob for reading front to back; it is read to its end.

    It has the attributes of a source, but it cannot open readers. Raises StoredDamage.
    """

    whole = True
    max_readers = 1

    def __init__(self, repository: Repository, backup: Backup, stream: Stream, open_blob: OpenBlob) -> None:
        self._repository = repository
        self._open_blob = open_blob
        self._map, self._chain = self._resolved(backup, stream)
        self.frames_read = 0
        self.bytes_read = 0
        self.streams_read = 0

    def _resolved(self, backup: Backup, stream: Stream) -> tuple[PointMap, Mapping[int, LayerSource]]:
        resolved = resolve_chain(self._repository, backup, stream)
        return resolved.map, dict(enumerate(resolved.sources))

    @property
    def size(self) -> int:
        return self._map.size

    def extents(self) -> ExtentMap:
        return self._map.extents()

    def open_reader(self) -> Reader:
        raise UsageError("a blob that comes from a command can only be read front to back")

    def needed(self) -> Needed:
        """Return the amount of stored data that a full read takes, each live frame once."""
        counted = [self._counted(layer) for layer in self._layers()]
        return Needed(
            sum(frames for frames, _ in counted), sum(stored for _, stored in counted), len(counted)
        )

    def passing(self) -> Iterator[Passing]:
        for layer in self._layers():
            yield from self._layer(layer)
        for extent in self.extents():
            if extent.zero:
                yield from cut(extent, bytes)

    def damaged(self) -> tuple[DamagedRange, ...]:
        """Return no ranges: damage would have raised an error."""
        return ()

    def _layers(self) -> list[int]:
        """Return the layers that hold live data, oldest first."""
        return sorted(set(self._map.layer[~self._map.zero].tolist()), reverse=True)

    def _live(self, layer: int, frames: Frames) -> _Live:
        mine = np.flatnonzero((self._map.layer == layer) & ~self._map.zero)
        starts = self._map.start[mine]
        numbers = frames.numbers_of(starts)
        return _Live(starts.tolist(), self._map.length[mine].tolist(), numbers.tolist())

    def _counted(self, layer: int) -> tuple[int, int]:
        frames = frames_of(self._repository, self._chain[layer])
        numbers = np.unique(self._live(layer, frames).frame)
        return len(numbers), int(frames.blob_length[numbers].sum())

    def _layer(self, layer: int) -> Iterator[Passing]:
        source = self._chain[layer]
        backup, stream = source.backup, source.stream
        frames = frames_of(self._repository, source)
        live = self._live(layer, frames)
        self.streams_read += 1
        passed = 0
        try:
            with self._open_blob(backup, stream) as blob:
                reader = _BlobReader(backup, stream, frames, blob)
                current = -1
                data: bytes | StoredDamage = b""
                # Frames lie in a blob in the order of the disk.
                for start, length, number in zip(live.start, live.length, live.frame, strict=True):
                    if number != current:
                        data, current = reader.frame(number), number
                        self.frames_read += 1
                        self.bytes_read += int(frames.blob_length[number])
                    begin = start - frames.origin(number)
                    if isinstance(data, bytes):
                        yield Passing(Extent(start, length, False), data[begin : begin + length])
                    else:
                        yield from self._instead(start, length, data)
                    passed += 1
        except (ProgramFailed, StoredDamage, RepositoryError) as error:
            self._given_up(error)
            for start, length in zip(live.start[passed:], live.length[passed:], strict=True):
                yield from self._instead(start, length, error)

    def _instead(self, start: int, length: int, error: PitrError) -> Iterator[Passing]:
        """Yield what passes instead of data that cannot be proven."""
        raise error

    def _given_up(self, error: PitrError) -> None:
        """Handle a blob that could not be read to its end."""
        raise error


class _BlobReader:
    """Reads the frames of one stream from its blob, front to back."""

    def __init__(self, backup: Backup, stream: Stream, frames: Frames, blob: BinaryIO) -> None:
        self._backup = backup
        self._stream = stream
        self._frames = frames
        self._blob = blob
        self._decompressor = Decompressor()
        self._position = 0

    def frame(self, number: int) -> bytes | StoredDamage:
        """Skip to a frame. Return its data, or its damage. Raises StoredDamage when the blob ends too early."""
        offset, length = int(self._frames.blob_offset[number]), int(self._frames.blob_length[number])
        while self._position < offset:
            self._take(min(offset - self._position, _SKIP_PIECE))
        frame = self._take(length)
        plain = self._stream.external == "none"
        try:
            return verified_frame(
                self._backup,
                self._stream,
                self._frames,
                number,
                lambda size: frame if plain else self._decompressor.decompress(frame, size),
            )
        except StoredDamage as error:
            return error

    def _take(self, length: int) -> bytes:
        parts = []
        left = length
        while left:
            try:
                part = self._blob.read(left)
            except PitrError as error:
                raise self._damage("corrupt", error.message) from error
            if not part:
                raise self._damage("truncated", "it ends too early")
            parts.append(part)
            left -= len(part)
        self._position += length
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _damage(self, kind: DamageKind, message: str) -> StoredDamage:
        return of_stream(self._backup.backup_id, self._stream, kind, "blob", message)


class SalvageStream(ChainStream):
    """The provable rest of a disk with a damaged chain, as a stream. Data that cannot be proven passes as zero.

    When a command fails, only the frames that it did not deliver are lost; frames that were proven before are good.
    """

    def _resolved(self, backup: Backup, stream: Stream) -> tuple[PointMap, Mapping[int, LayerSource]]:
        known = known_layers(self._repository, backup, stream)
        self._problems = known.problems
        self._damaged: list[DamagedRange] = []
        return resolve(known.layers), {number: part[0] for number, part in known.parts.items()}

    def extents(self) -> ExtentMap:
        lost = lost_pieces(self._map, self._problems)
        return ExtentMap(self._map.start, self._map.length, self._map.zero | lost).merged()

    def damaged(self) -> tuple[DamagedRange, ...]:
        return joined(self._map, self._problems, self._damaged)

    def _layers(self) -> list[int]:
        return [layer for layer in super()._layers() if layer not in self._problems]

    def _instead(self, start: int, length: int, error: PitrError) -> Iterator[Passing]:
        self._damaged.append(DamagedRange(start, length, error.message))
        yield from cut(Extent(start, length, True), bytes)

    def _given_up(self, error: PitrError) -> None:
        """Go on: the pieces of this blob that have not passed count as damaged."""
