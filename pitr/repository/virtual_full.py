# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual fulls: the map of a disk at a point, written down as an index whose frames are in the blobs of other streams.

No data is read or copied, but for the blobs that the caller names: their live frames go into the stream's own blob, so
that these blobs may go. Such an index cannot be made again from blobs, so it is stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from blake3 import blake3

from pitr.errors import FormatError, UsageError
from pitr.extents import Int64Array
from pitr.model import Kind, Part, StoredObject, Stream
from pitr.repository import names
from pitr.repository.blob import BlobWriter, Compressor, Decompressor, digest_of
from pitr.repository.chain import ResolvedChain, frames_of
from pitr.repository.damage import of_stream
from pitr.repository.index import DIGEST, OWN, Frames, IndexRow, IndexWriter, StreamRow, parts_of
from pitr.repository.layers import LayerSource
from pitr.repository.repository import Repository
from pitr.repository.store import StoredFile
from pitr.repository.stream_sink import written

_ROWS_AT_ONCE = 4096

#: A disk and a stream: the blob with this name.
PartKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Moved:
    """The blob that holds the live frames of another one now: that of `stream`, with its own frames."""

    stream: Stream
    frames: Frames


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a new stream does about blobs that are hardly live.

    `copied`: the blobs whose live frames it copies into its own blob. `moved`: the blobs whose frames it takes from
    another stream, which has copied them. `meta` is the header of its own blob. `on_copied` gets the stored bytes of
    each frame in it.
    """

    copied: AbstractSet[PartKey] = frozenset()
    moved: Mapping[PartKey, Moved] = field(default_factory=dict)
    meta: Mapping[str, object] = field(default_factory=dict)
    on_copied: Callable[[int], None] = lambda count: None


NO_COMPACTION = Compaction()


def store_virtual_full(
    repository: Repository,
    resolved: ResolvedChain,
    stream: Stream,
    *,
    backup_id: str,
    stream_id: str,
    compaction: Compaction = NO_COMPACTION,
    dry_run: bool = False,
) -> Stream:
    """Store the index of a new stream that is the disk of `resolved`, and return that stream.

    `stream` is the disk's stream at the point. If the record of `backup_id` is not written, the caller drops the new
    stream. `dry_run` stores nothing, and returns the same. Raises StoredDamage; UsageError if a blob is external.
    """
    live = _live_layers(resolved)
    parts = _parts(resolved, live, compaction)
    indexed = [resolved.sources[layer].indexed.frame_size for layer in live]
    new = replace(
        stream,
        stream_id=stream_id,
        kind=Kind.SYNTHETIC,
        reason=None,
        parent_stream_id=None,
        frame_size=_common_frame_size([stream.frame_size, *indexed]),
        blob=None,
        external=None,
        changes=None,
        parts=tuple(parts.values()),
    )
    numbers = {key: number for number, key in enumerate(parts, OWN + 1)}
    store = repository.store
    with ExitStack() as stack:
        if dry_run:
            # Not in the repository, which can be read-only.
            path = Path(stack.enter_context(TemporaryDirectory())) / "index"
        else:
            path = store.scratch_file()
            stack.callback(store.drop_scratch, path)
        writer = IndexWriter(path)
        stack.callback(writer.close)
        own = _OwnBlob(repository, new, compaction, dry_run=dry_run) if compaction.copied else None
        if own is not None:
            stack.callback(own.close)
        rows: list[IndexRow] = []
        totals = {True: 0, False: 0}
        for row in _rows(repository, resolved, live, numbers, compaction, own):
            totals[row.blob_offset is None] += row.length
            rows.append(row)
            if len(rows) >= _ROWS_AT_ONCE:
                writer.add(rows)
                rows.clear()
        writer.add(rows)
        if own is not None and own.live_bytes:
            blob = own.commit()
            new = replace(
                new, blob=blob, parts=(Part(new.disk_id, stream_id, own.live_bytes, blob), *new.parts)
            )
        writer.finish(
            StreamRow(stream_id, backup_id, new.disk_id, new.kind.value, new.size, None, new.frame_size),
            parts_of(new),
        )
        stored_index = _digested(path) if dry_run else _stored_twice(repository, new, path)
    return replace(
        new,
        data_bytes=totals[False],
        zero_bytes=totals[True],
        extents=writer.rows,
        index=stored_index,
        index_copy=stored_index,
    )


def _digested(path: Path) -> StoredObject:
    with path.open("rb") as file:
        digest = blake3(file.read()).hexdigest()
    return StoredObject(path.stat().st_size, digest)


def _stored_twice(repository: Repository, stream: Stream, path: Path) -> StoredObject:
    """Store an index file and its copy. Return the size and digest of each."""
    stored_index = _digested(path)
    for name in (
        names.index(stream.disk_id, stream.stream_id),
        names.index_copy(stream.disk_id, stream.stream_id),
    ):
        with repository.store.new(name) as stored:
            stored_index = written(path, stored)
            stored.commit()
    return stored_index


def _live_layers(resolved: ResolvedChain) -> list[int]:
    return resolved.map.layers_of_data()


def _parts(resolved: ResolvedChain, live: list[int], compaction: Compaction) -> dict[PartKey, Part]:
    """Return the parts by disk and stream, in this order, without the stream's own blob."""
    parts: dict[PartKey, Part] = {}
    for layer in live:
        stream = resolved.sources[layer].stream
        if key_of(stream) in compaction.copied:
            continue
        moved = compaction.moved.get(key_of(stream))
        stream = moved.stream if moved is not None else stream
        if stream.external is not None:
            raise UsageError(
                f"the blob of stream {stream.stream_id} is stored externally, so no other stream can use its frames"
            )
        pieces = (resolved.map.layer == layer) & ~resolved.map.zero
        key = key_of(stream)
        before = parts[key].live_bytes if key in parts else 0
        parts[key] = Part(*key, before + int(resolved.map.length[pieces].sum()), stream.own_blob)
    return dict(sorted(parts.items()))


def _common_frame_size(sizes: list[int]) -> int:
    """Return the largest grid. Raises UsageError unless the other grids fit into it."""
    largest = max(sizes)
    if any(largest % size for size in sizes):
        raise UsageError(f"the frames of the streams are on different grids: {sorted(set(sizes))} bytes")
    return largest


def key_of(stream: Stream) -> PartKey:
    """Return the name of a stream's blob."""
    return stream.disk_id, stream.stream_id


class _OwnBlob:
    """The blob of a new stream, with frames that are copied from other blobs."""

    def __init__(
        self, repository: Repository, stream: Stream, compaction: Compaction, *, dry_run: bool
    ) -> None:
        self._stack = ExitStack()
        self._stored = (
            None
            if dry_run
            else self._stack.enter_context(repository.store.new(names.blob(stream.disk_id, stream.stream_id)))
        )
        write: Callable[[bytes], object] = self._stored.write if self._stored is not None else len
        self._blob = BlobWriter(write, compaction.meta)
        self._on_copied = compaction.on_copied
        self._repository = repository
        self._compressor = Compressor()
        self._decompressor = Decompressor()
        self._open: dict[PartKey, StoredFile] = {}
        self._last: tuple[PartKey, int, bytes, bytes] | None = None
        self.live_bytes = 0

    def add(self, source: LayerSource, frames: Frames, start: int, length: int) -> IndexRow:
        """Copy a range of the disk that lies in one frame. Raises StoredDamage."""
        number = int(frames.numbers_of(np.array([start]))[0])
        stored, data = self._frame(source, frames, number)
        skip = start - frames.origin(number)
        digest = frames.digest(number)
        if length != len(data):
            part = memoryview(data)[skip : skip + length]
            stored, digest = self._compressor.compress(part), digest_of(part)
        offset = self._blob.add_data(start, length, stored)
        self.live_bytes += length
        self._on_copied(len(stored))
        return IndexRow(start, length, offset, len(stored), digest)

    def _frame(self, source: LayerSource, frames: Frames, number: int) -> tuple[bytes, bytes]:
        """Return a frame as it is stored and its data, after its digest is verified."""
        key, offset = key_of(source.stream), int(frames.blob_offset[number])
        if self._last is not None and self._last[:2] == (key, offset):
            return self._last[2:]
        blob = self._open.get(key)
        if blob is None:
            opened = self._repository.open_blob(source.backup, source.stream)
            blob = self._open[key] = self._stack.enter_context(opened)
        start, length = frames.origin(number), int(frames.frame_length[number])
        try:
            stored = blob.read_at(offset, int(frames.blob_length[number]))
            data = self._decompressor.decompress(stored, length)
            if digest_of(data) != frames.digest(number):
                raise FormatError("the digest of its data does not match")
        except FormatError as error:
            raise of_stream(
                source.backup.backup_id, source.stream, "corrupt", "frame", error.message, start, length
            ) from None
        self._last = key, offset, stored, data
        return stored, data

    def commit(self) -> StoredObject:
        """Finish the blob and store it."""
        digest = self._blob.finish()
        if self._stored is not None:
            self._stored.commit()
        return StoredObject(self._blob.size, digest)

    def close(self) -> None:
        """Close the blobs. Without `commit`, nothing is stored."""
        self._stack.close()


def _rows(
    repository: Repository,
    resolved: ResolvedChain,
    live: list[int],
    numbers: dict[PartKey, int],
    compaction: Compaction,
    own: _OwnBlob | None,
) -> Iterator[IndexRow]:
    """Yield the rows in the order of the disk, zero ranges joined."""
    frames = {
        layer: known
        if (known := resolved.frames.get(layer))
        else frames_of(repository, resolved.sources[layer])
        for layer in live
    }
    keys = {layer: key_of(resolved.sources[layer].stream) for layer in live}
    zero_start = end = 0
    pieces = resolved.map
    for at in range(0, len(pieces), _ROWS_AT_ONCE):
        chosen = slice(at, at + _ROWS_AT_ONCE)
        columns = (pieces.start[chosen], pieces.length[chosen], pieces.layer[chosen], pieces.zero[chosen])
        rows_of = {
            layer: _rows_of(frames[layer], columns[0][rows], columns[1][rows], numbers.get(keys[layer], OWN))
            for layer in np.unique(columns[2][~columns[3]]).tolist()
            for rows in [(columns[2] == layer) & ~columns[3]]
        }
        for start, length, layer, zero in zip(*(column.tolist() for column in columns), strict=True):
            end = start + length
            if zero:
                continue
            if zero_start < start:
                yield IndexRow(zero_start, start - zero_start, None, None, None)
            zero_start = end
            key = keys[layer]
            moved = compaction.moved.get(key)
            if own is not None and key in compaction.copied:
                yield own.add(resolved.sources[layer], frames[layer], start, length)
            elif moved is not None:
                yield from _rows_in(moved.frames, start, end, numbers[key_of(moved.stream)])
            else:
                yield next(rows_of[layer])
    if zero_start < end:
        yield IndexRow(zero_start, end - zero_start, None, None, None)


def _rows_in(frames: Frames, start: int, end: int, part: int) -> Iterator[IndexRow]:
    """Yield the rows of a range that lies in the frames of a blob, which were cut at other places."""
    while start < end:
        number = int(np.searchsorted(frames.start, start, side="right")) - 1
        stop = min(end, int(frames.start[number] + frames.length[number])) if number >= 0 else start
        if stop <= start:
            raise ValueError(f"the moved frames do not hold the range at {start}")
        yield _row(frames, start, stop - start, part)
        start = stop


def _row(frames: Frames, start: int, length: int, part: int) -> IndexRow:
    return next(_rows_of(frames, np.array([start]), np.array([length]), part))


def _rows_of(frames: Frames, start: Int64Array, length: Int64Array, part: int) -> Iterator[IndexRow]:
    """Yield the rows of ranges that each lie in one frame."""
    number = frames.numbers_of(start)
    skip = start - frames.start[number] + frames.skip[number]
    digests = frames.digests.view(DIGEST)[number]
    place = (frames.blob_offset[number], frames.blob_length[number])
    columns = (start, length, *place, digests, frames.frame_length[number], skip, np.full_like(start, part))
    yield from map(IndexRow._make, zip(*(column.tolist() for column in columns), strict=True))
