# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point whose blobs can only be read front to back: from tapes, through commands.

Each blob that holds live data is read once, from its beginning; frames that newer ones hide are skipped, and each
live one's digest is compared before its bytes pass. Blobs pass one after the other, the oldest first, so that data
does not pass in the order of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np

from pitr.blob import Decompressor, digest_of
from pitr.damage import of_stream
from pitr.endpoint.protocols import Reader
from pitr.endpoint.streamed import Passing, cut
from pitr.errors import FormatError, PitrError, UsageError
from pitr.extents import Extent, ExtentMap
from pitr.index import Frames
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import frames_of, resolve_chain

_SKIP_PIECE = 1 << 20

OpenBlob = Callable[[Backup, Stream], AbstractContextManager[BinaryIO]]


class ChainStream:
    """A point's disk as a stream. `open_blob` opens a blob for reading front to back; its end is read, too.

    What is asked of a source is here, too, except reading anywhere. Raises StoredDamage.
    """

    whole = True
    max_readers = 1

    def __init__(self, repository: Repository, backup: Backup, stream: Stream, open_blob: OpenBlob) -> None:
        self._repository = repository
        self._open_blob = open_blob
        self._resolved = resolve_chain(repository, backup, stream)
        self.frames_read = 0
        self.bytes_read = 0
        self.streams_read = 0

    @property
    def size(self) -> int:
        return self._resolved.map.size

    def extents(self) -> ExtentMap:
        return self._resolved.map.extents()

    def open_reader(self) -> Reader:
        raise UsageError("blobs that come from a command can only be read front to back")

    def passing(self) -> Iterator[Passing]:
        found = self._resolved.map
        for layer in sorted(set(found.layer[~found.zero].tolist()), reverse=True):
            yield from self._layer(layer)
        for extent in self.extents():
            if extent.zero:
                yield from cut(extent, bytes)

    def _layer(self, layer: int) -> Iterator[Passing]:
        backup, stream = self._resolved.chain[layer]
        found = self._resolved.map
        frames = frames_of(self._repository, backup, stream)
        mine = np.flatnonzero((found.layer == layer) & ~found.zero)
        starts = found.start[mine]
        numbers = np.searchsorted(frames.start, starts, side="right") - 1
        decompressor = Decompressor()
        self.streams_read += 1
        with self._open_blob(backup, stream) as blob:
            position, current, data = 0, -1, b""
            # Frames lie in a blob in the order of the disk.
            for start, length, number in zip(
                starts.tolist(), found.length[mine].tolist(), numbers.tolist(), strict=True
            ):
                if number != current:
                    offset, stored = int(frames.blob_offset[number]), int(frames.blob_length[number])
                    self._skip(blob, offset - position, backup, stream)
                    frame = self._take(blob, stored, backup, stream)
                    position, current = offset + stored, number
                    data = self._checked(frames, number, frame, decompressor, backup, stream)
                    self.frames_read += 1
                    self.bytes_read += stored
                begin = start - int(frames.start[number])
                yield Passing(Extent(start, length, False), data[begin : begin + length])

    def _checked(
        self,
        frames: Frames,
        number: int,
        frame: bytes,
        decompressor: Decompressor,
        backup: Backup,
        stream: Stream,
    ) -> bytes:
        start, length = int(frames.start[number]), int(frames.length[number])
        try:
            data = frame if stream.external == "none" else decompressor.decompress(frame, length)
            if digest_of(data) != frames.digest(number):
                raise FormatError("the digest of its data does not match")
        except FormatError as error:
            raise of_stream(
                backup.backup_id, stream, "corrupt", "frame", error.message, start, length
            ) from None
        return data

    def _skip(self, blob: BinaryIO, length: int, backup: Backup, stream: Stream) -> None:
        while length:
            length -= len(self._take(blob, min(length, _SKIP_PIECE), backup, stream))

    def _take(self, blob: BinaryIO, length: int, backup: Backup, stream: Stream) -> bytes:
        parts = []
        left = length
        while left:
            try:
                part = blob.read(left)
            except PitrError as error:
                raise of_stream(backup.backup_id, stream, "corrupt", "blob", error.message) from error
            if not part:
                raise of_stream(backup.backup_id, stream, "truncated", "blob", "it ends too early")
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
