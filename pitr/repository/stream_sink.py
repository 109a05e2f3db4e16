# SPDX-License-Identifier: GPL-2.0-or-later
"""A sink that writes a new stream to the repository.

In parallel, workers cut data at the frame grid, find zeroes, compress frames and compute digests. One worker at a
time adds the results to the blob, in the order of the disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from blake3 import blake3

from pitr import times
from pitr.extents import BoolArray
from pitr.formats.in_order import InOrder
from pitr.model import DiskSettings, Kind, Part, StoredObject, Stream, VMName
from pitr.repository import index, names
from pitr.repository.blob import FRAME_SIZE, BlobWriter, Compressor, Plain
from pitr.repository.store import KeepsCopies, NewObject, ObjectExists, Store
from pitr.system.closing import Closes

#: The block size for finding zeroes in data. It is the cluster size of qcow2 and the usual granularity of dirty
#: bitmaps, so a restored qcow2 image needs no clusters for zeroes.
ZERO_BLOCK = 1 << 16
_ROWS_AT_ONCE = 4096
#: An index of up to this size stays on this machine, too.
_MOST_COPIED = 64 << 20

#: How the bytes of a stream are stored: as zstd frames, or plain.
Compression = Literal["none", "zstd"]


@dataclass(frozen=True, slots=True)
class NewStream:
    """The properties of a stream that are known before its first byte."""

    stream_id: str
    backup_id: str
    disk_id: str
    name: str
    kind: Kind
    reason: str | None
    parent_stream_id: str | None
    settings: DiskSettings
    note: str | None = None
    changes: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame of another stream, at `offset` of its blob, with `length` bytes there and `data_length` of the disk.

    The piece that uses it begins `skip` bytes behind the first one of the frame.
    """

    stream: Stream
    offset: int
    length: int
    data_length: int
    skip: int


class StoredPiece(NamedTuple):
    """A data extent with its frame and digest, or a zero extent with None for both.

    `used` takes the place of the frame if another stream has stored it.
    """

    start: int
    length: int
    frame: bytes | None = None
    digest: bytes | None = None
    used: StoredFrame | None = None


class StreamWriter(Closes):
    """Compresses frames and computes digests; `take` returns the pieces. No `level` means no compression."""

    def __init__(self, frame_size: int, level: int | None) -> None:
        self._frame_size = frame_size
        self._compress = (Plain() if level is None else Compressor(level)).compress
        self._pieces: list[StoredPiece] = []

    def write(self, offset: int, data: memoryview) -> None:
        compress, add = self._compress, self._pieces.append
        for start, length, zero in cut(offset, data, self._frame_size):
            if zero:
                add(StoredPiece(start, length))
            else:
                view = data[start - offset : start - offset + length]
                add(StoredPiece(start, length, compress(view), blake3(view).digest()))

    def zero(self, offset: int, length: int) -> None:
        self._pieces.append(StoredPiece(offset, length))

    def take(self) -> Sequence[StoredPiece]:
        """Return the pieces since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def close(self) -> None:
        self._pieces.clear()


def cut(offset: int, data: memoryview, frame_size: int) -> list[tuple[int, int, bool]]:
    """Cut `data` at `offset` of the disk into (start, length, zero) runs that do not cross the frame grid."""
    end = offset + len(data)
    runs: list[tuple[int, int, bool]] = []
    all_data = _has_no_zero_block(offset, data, frame_size)
    start = offset
    while start < end:
        stop = min(end, (start // frame_size + 1) * frame_size)
        if all_data:
            runs.append((start, stop - start, False))
        else:
            runs += _zero_runs(start, data[start - offset : stop - offset])
        start = stop
    return runs


def _has_no_zero_block(offset: int, data: memoryview, frame_size: int) -> bool:
    """Return whether no block of a window on the grids is zero. Most windows are like that, and one call finds out."""
    if offset % ZERO_BLOCK or len(data) % ZERO_BLOCK or frame_size % ZERO_BLOCK:
        return False
    return bool(_any_in_blocks(data, 0, len(data) // ZERO_BLOCK).all())


def _any_in_blocks(data: memoryview, head: int, blocks: int) -> BoolArray:
    """Return for each block behind `head` whether it has a byte that is not zero. numpy stops at the first one."""
    found = np.frombuffer(data, np.bool_, blocks * ZERO_BLOCK, head).reshape(blocks, ZERO_BLOCK)
    return np.asarray(found.any(axis=1))


def _zero_runs(offset: int, data: memoryview) -> list[tuple[int, int, bool]]:
    """Return the zero and data runs of one frame, in blocks on the disk's grid."""
    head = min(-offset % ZERO_BLOCK, len(data))
    bounds = [head] if head else []
    zero = [not np.frombuffer(data[:head], np.bool_).any()] if head else []
    whole = (len(data) - head) // ZERO_BLOCK
    if whole:
        zero += (~_any_in_blocks(data, head, whole)).tolist()
        bounds += range(head + ZERO_BLOCK, head + whole * ZERO_BLOCK + 1, ZERO_BLOCK)
    if (bounds[-1] if bounds else 0) < len(data):
        zero.append(not np.frombuffer(data[bounds[-1] if bounds else 0 :], np.bool_).any())
        bounds.append(len(data))
    runs: list[tuple[int, int, bool]] = []
    start = 0
    for at, bound in enumerate(bounds):
        if at + 1 == len(bounds) or zero[at + 1] != zero[at]:
            runs.append((offset + start, bound - start, zero[at]))
            start = bound
    return runs


class ExternalBlob(ABC):
    """The target of a blob that is stored externally."""

    compression: Compression

    @abstractmethod
    def write(self, data: bytes) -> object:
        """Write all of `data`."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the reader has the whole blob. Raises PitrError if it failed."""


class StreamSink:
    """Writes one new stream: a blob and its index. Without `flush`, the end of the `with` block removes both.

    `size` is the disk's in bytes. `meta` is the blob's meta header (see `blob_meta`). With `external`, the sink
    writes the blob there instead of to the repository. A stream `of_parts` may use frames of other streams: its blob
    holds only its own frames, and its index is stored twice.
    """

    max_writers = 1 << 10
    reads_zero = False

    def __init__(
        self,
        store: Store,
        new: NewStream,
        size: int,
        meta: Mapping[str, Any],
        *,
        level: int,
        frame_size: int = FRAME_SIZE,
        external: ExternalBlob | None = None,
        of_parts: bool = False,
    ) -> None:
        self._external = external
        self._parts = UsedParts() if of_parts else None
        self._store = store
        self._new = new
        self._size = size
        self._level = level
        self._frame_size = frame_size
        self._order = InOrder(size, whole=new.kind is not Kind.INCREMENTAL, zero=self._zero)
        self._data_bytes = 0
        self._zero_bytes = 0
        self._rows: list[index.IndexRow] = []
        self._stream: Stream | None = None
        self._stored: list[str] = []
        with ExitStack() as stack:
            self._blob_object: NewObject | ExternalBlob = external or stack.enter_context(
                store.new(names.blob(new.disk_id, new.stream_id))
            )
            self._index_path = store.scratch_file()
            stack.callback(store.drop_scratch, self._index_path)
            self._index = index.IndexWriter(self._index_path)
            stack.callback(self._index.close)
            compressed = external is None or external.compression == "zstd"
            if of_parts:
                meta = {**meta, "incremental": True}
            self._blob = BlobWriter(self._blob_object.write, meta, compressed=compressed)
            self._stack = stack.pop_all()

    def __enter__(self) -> StreamSink:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if self._stream is None:
            self.abort()

    @property
    def stream(self) -> Stream:
        """The finished stream. Raises ValueError before `flush`."""
        if self._stream is None:
            raise ValueError("the stream is not finished")
        return self._stream

    def open_writer(self) -> StreamWriter:
        """Open another worker's writer, which the caller closes."""
        plain = self._external is not None and self._external.compression == "none"
        return StreamWriter(self._frame_size, None if plain else self._level)

    def append(self, pieces: Sequence[StoredPiece]) -> None:
        """Add the next pieces of the disk to the blob; one caller at a time."""
        own: list[tuple[int, int, bytes]] = []
        digests: list[bytes] = []
        for start, length, frame, digest, used in pieces:
            if digest is not None and frame is not None:
                own.append((start, length, frame))
                digests.append(digest)
                continue
            self._add_own(own, digests)
            own, digests = [], []
            self._order.next(start, length, zero=used is None)
            if used is not None and self._parts is not None:
                part = self._parts.number_of(used.stream, length)
                place = (used.offset, used.length, digest, used.data_length, used.skip)
                self._add_rows([index.IndexRow(start, length, *place, part)])
                self._data_bytes += length
        self._add_own(own, digests)

    def _add_own(self, own: Sequence[tuple[int, int, bytes]], digests: Sequence[bytes]) -> None:
        """Add frames of the stream's own blob: (start, length, frame) with its digest."""
        if own:
            self._order.next_data([(start, length) for start, length, _ in own])
            offsets = self._blob.add_frames(own)
            self._add_rows(
                [
                    index.IndexRow(start, length, offset, len(frame), digest)
                    for (start, length, frame), digest, offset in zip(own, digests, offsets, strict=True)
                ]
            )
            self._data_bytes += sum(length for _, length, _ in own)

    def flush(self) -> None:
        """Finish the stream: make the blob durable, then its index."""
        self._order.finish()
        digest = self._blob.finish()
        self._index.add(self._rows)
        blob = StoredObject(self._blob.size, digest)
        parts = self._parts_with(blob)
        self._index.finish(
            index.StreamRow(
                stream_id=self._new.stream_id,
                backup_id=self._new.backup_id,
                disk_id=self._new.disk_id,
                kind=self._new.kind.value,
                size=self._size,
                parent_stream_id=self._new.parent_stream_id,
                frame_size=self._frame_size,
            ),
            [index.PartRow(index.OWN, self._new.disk_id, self._new.stream_id, *astuple(blob))]
            + [
                index.PartRow(number, part.disk_id, part.stream_id, *astuple(part.blob))
                for number, part in enumerate(parts[1:], index.OWN + 1)
            ],
        )
        if isinstance(self._blob_object, ExternalBlob):
            self._blob_object.finish()
        else:
            self._commit(self._blob_object, names.blob(self._new.disk_id, self._new.stream_id))
        stored_index = self._store_index(names.index(self._new.disk_id, self._new.stream_id))
        if parts:
            self._store_index(names.index_copy(self._new.disk_id, self._new.stream_id))
        self._stream = Stream(
            stream_id=self._new.stream_id,
            disk_id=self._new.disk_id,
            name=self._new.name,
            kind=self._new.kind,
            reason=self._new.reason,
            size=self._size,
            parent_stream_id=self._new.parent_stream_id,
            frame_size=self._frame_size,
            data_bytes=self._data_bytes,
            zero_bytes=self._zero_bytes,
            extents=self._index.rows,
            blob=blob,
            index=stored_index,
            settings=self._new.settings,
            note=self._new.note,
            external=None if self._external is None else self._external.compression,
            changes=self._new.changes,
            parts=parts,
            index_copy=stored_index if parts else None,
        )

    def _parts_with(self, blob: StoredObject) -> tuple[Part, ...]:
        """Return the parts of a stream of parts, with its own `blob` first; of another stream none."""
        if self._parts is None:
            return ()
        own_bytes = self._data_bytes - sum(part.live_bytes for part in self._parts.parts)
        own = Part(self._new.disk_id, self._new.stream_id, own_bytes, blob)
        return (own, *self._parts.parts)

    def abort(self) -> None:
        """Remove the stored objects of the stream. Only for a stream that no record names."""
        self._stream = None
        while self._stored:
            self._store.delete(self._stored.pop())

    def _commit(self, new: NewObject, name: str) -> None:
        # The object may exist although `commit` raises an error.
        self._stored.append(name)
        try:
            new.commit()
        except ObjectExists:
            self._stored.remove(name)
            raise

    def _store_index(self, name: str) -> StoredObject:
        with self._store.new(name) as new:
            stored = written(self._index_path, new)
            self._commit(new, name)
        if isinstance(self._store, KeepsCopies) and stored.size <= _MOST_COPIED:
            # The next incremental reads it.
            self._store.keep_copy(name, self._index_path)
        return stored

    def _zero(self, start: int, length: int) -> None:
        if self._parts is None:
            self._blob.add_zero(start, length)
        self._add_rows([index.IndexRow(start, length, None, None, None)])
        self._zero_bytes += length

    def _add_rows(self, rows: Sequence[index.IndexRow]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._index.add(self._rows)
            self._rows.clear()


class UsedParts:
    """The other streams whose frames a new stream uses, in the order of their first use."""

    def __init__(self) -> None:
        self._bytes: dict[Stream, int] = {}
        self._numbers: dict[Stream, int] = {}

    def number_of(self, stream: Stream, length: int) -> int:
        """Return the number of the part, after `length` more bytes of the disk are in it."""
        number = self._numbers.setdefault(stream, index.OWN + 1 + len(self._numbers))
        self._bytes[stream] = self._bytes.get(stream, 0) + length
        return number

    @property
    def parts(self) -> list[Part]:
        """The parts by number."""
        return [
            Part(stream.disk_id, stream.stream_id, live, stream.own_blob)
            for stream, live in self._bytes.items()
        ]


def written(path: Path, new: NewObject) -> StoredObject:
    """Write a local file to a new object, which the caller commits. Return its size and digest."""
    digest = blake3()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(FRAME_SIZE):
            new.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return StoredObject(size, digest.hexdigest())


def blob_meta(
    new: NewStream,
    vm: VMName,
    size: int,
    data_bytes: int,
    point: datetime,
    checkpoint_id: str | None,
    *,
    parent_id: str | None,
) -> dict[str, object]:
    """Return the meta header that identifies a blob without its record (docs/format.md).

    `size` and `data_bytes` are the disk's, in bytes. `parent_id`: the backup that an incremental is based on.
    """
    meta: dict[str, object] = {
        "virtual-size": size,
        "data-size": data_bytes,
        "date": times.to_text(point),
        "incremental": new.kind is Kind.INCREMENTAL,
        "stream-id": new.stream_id,
        "parent-stream-id": new.parent_stream_id,
        "backup-id": new.backup_id,
        "disk-id": new.disk_id,
        "disk-name": new.name,
        "vm-id": vm.id,
        "vm-name": vm.name,
        "checkpoint-id": checkpoint_id,
    }
    if parent_id is not None:
        meta["parent-backup-id"] = parent_id
    return meta
