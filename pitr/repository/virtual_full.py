# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual fulls: the map of a disk at a point, written down as an index whose frames are in the blobs of other streams.

No data is read or copied. Such an index cannot be made again from blobs, so it is stored twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from pitr.errors import UsageError
from pitr.model import Kind, Part, StoredObject, Stream
from pitr.repository import names
from pitr.repository.chain import ResolvedChain, frames_of
from pitr.repository.index import OWN, Frames, IndexRow, IndexWriter, StreamRow, parts_of
from pitr.repository.repository import Repository
from pitr.repository.stream_sink import written

_ROWS_AT_ONCE = 4096


def store_virtual_full(
    repository: Repository,
    resolved: ResolvedChain,
    stream: Stream,
    *,
    backup_id: str,
    stream_id: str,
    dry_run: bool = False,
) -> Stream:
    """Store the index of a new stream that is the disk of `resolved`, and return that stream.

    `stream` is the disk's stream at the point. If the record of `backup_id` is not written, the caller drops the new
    stream. `dry_run` stores nothing, and returns the same. Raises StoredDamage; UsageError if a blob is external.
    """
    live = _live_layers(resolved)
    parts = _parts(resolved, live)
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
        path = store.scratch_file()
        stack.callback(store.drop_scratch, path)
        writer = IndexWriter(path)
        stack.callback(writer.close)
        rows: list[IndexRow] = []
        totals = {True: 0, False: 0}
        for row in _rows(repository, resolved, live, numbers):
            totals[row.blob_offset is None] += row.length
            rows.append(row)
            if len(rows) >= _ROWS_AT_ONCE:
                writer.add(rows)
                rows.clear()
        writer.add(rows)
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
    return [int(layer) for layer in np.unique(resolved.map.layer[~resolved.map.zero])]


def _parts(resolved: ResolvedChain, live: list[int]) -> dict[tuple[str, str], Part]:
    """Return the parts by disk and stream, in this order."""
    parts: dict[tuple[str, str], Part] = {}
    for layer in live:
        stream = resolved.sources[layer].stream
        if stream.external is not None:
            raise UsageError(
                f"the blob of stream {stream.stream_id} is stored externally, so no other stream can use its frames"
            )
        pieces = (resolved.map.layer == layer) & ~resolved.map.zero
        key = (stream.disk_id, stream.stream_id)
        before = parts[key].live_bytes if key in parts else 0
        parts[key] = Part(*key, before + int(resolved.map.length[pieces].sum()), stream.own_blob)
    return dict(sorted(parts.items()))


def _common_frame_size(sizes: list[int]) -> int:
    """Return the largest grid. Raises UsageError unless the other grids fit into it."""
    largest = max(sizes)
    if any(largest % size for size in sizes):
        raise UsageError(f"the frames of the streams are on different grids: {sorted(set(sizes))} bytes")
    return largest


def _rows(
    repository: Repository, resolved: ResolvedChain, live: list[int], numbers: dict[tuple[str, str], int]
) -> Iterator[IndexRow]:
    """Yield the rows in the order of the disk, zero ranges joined."""
    frames: dict[int, Frames] = {
        layer: known
        if (known := resolved.frames.get(layer))
        else frames_of(repository, resolved.sources[layer])
        for layer in live
    }
    part_of = {
        layer: numbers[source.stream.disk_id, source.stream.stream_id]
        for layer, source in enumerate(resolved.sources)
        if layer in frames
    }
    zero_start = end = 0
    pieces = resolved.map
    for at in range(0, len(pieces), _ROWS_AT_ONCE):
        chosen = slice(at, at + _ROWS_AT_ONCE)
        columns = (pieces.start[chosen], pieces.length[chosen], pieces.layer[chosen], pieces.zero[chosen])
        for start, length, layer, zero in zip(*(column.tolist() for column in columns), strict=True):
            end = start + length
            if zero:
                continue
            if zero_start < start:
                yield IndexRow(zero_start, start - zero_start, None, None, None)
            zero_start = end
            yield _row(frames[layer], start, length, part_of[layer])
    if zero_start < end:
        yield IndexRow(zero_start, end - zero_start, None, None, None)


def _row(frames: Frames, start: int, length: int, part: int) -> IndexRow:
    number = int(frames.numbers_of(np.array([start]))[0])
    return IndexRow(
        start,
        length,
        int(frames.blob_offset[number]),
        int(frames.blob_length[number]),
        frames.digest(number),
        int(frames.frame_length[number]),
        start - frames.origin(number),
        part,
    )
