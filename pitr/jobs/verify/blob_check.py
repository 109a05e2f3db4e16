# SPDX-License-Identifier: GPL-2.0-or-later
"""Check a blob against its index. Each byte of a blob belongs to a frame in the index or to header text, which
follows from the index.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from threading import local

from blake3 import blake3

from pitr.errors import FormatError
from pitr.formats import sparse
from pitr.jobs.verify.ahead import read_ahead
from pitr.model import Backup, Kind, Stream
from pitr.repository.blob import Decompressor, digest_of
from pitr.repository.damage import StoredDamage, What, of_stream
from pitr.repository.index import IndexRow
from pitr.repository.store import StoredFile
from pitr.system import rate_limit

#: About how many stored bytes are read and checked at a time.
_CHUNK = 8 << 20
#: One thread alone computes a digest faster from bytes that the processor's cache still holds.
_SMALL_CHUNK = 1 << 20
#: How much is read of a blob to see its meta header with its JSON: nearly always enough, and always.
HEAD = 1 << 12
_HEADS = (HEAD, sparse.MAX_META_SIZE)
_TEXT_LIMIT = 1 << 30
_local = local()


@dataclass(slots=True)
class BlobChecked:
    """How much of one blob was read (frames; stored bytes), and its damage."""

    frames: int = 0
    bytes: int = 0
    damage: list[StoredDamage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BlobRange:
    """A range of a blob, between two frames: its stored bytes from `begin` to `end`.

    Its index rows are those that start in `[first, last)` on the disk.
    """

    begin: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _BlobPart:
    """The stored bytes from `begin` to `end` with their index rows. Rows before a frame are in the text before it."""

    begin: int
    end: int
    rows: tuple[IndexRow, ...]
    first: bool
    last: bool


def check_head(backup: Backup, stream: Stream, blob: StoredFile) -> None:
    """Check that the blob begins with this stream's meta header, to detect a swapped blob. Raises StoredDamage."""
    try:
        text = _first_text(blob)
        _check_meta(stream, text)
    except FormatError as error:
        raise of_stream(backup.backup_id, stream, "corrupt", "blob", error.message, 0) from None


def _first_text(blob: StoredFile) -> bytes:
    """Return the header text that a blob begins with. Raises FormatError."""
    # A new one costs more than the text.
    if not hasattr(_local, "decompressor"):
        _local.decompressor = Decompressor()
    decompressor: Decompressor = _local.decompressor
    for length in _HEADS:
        head = blob.read_at(0, min(length, blob.size))
        try:
            return decompressor.first_text(head, sparse.MAX_META_SIZE)
        except FormatError:
            if length == _HEADS[-1] or length >= blob.size:
                raise
    raise FormatError("it is empty")


def check_digest(
    backup: Backup,
    stream: Stream,
    blob: StoredFile,
    threads: int,
    advance: Callable[[int], None] = lambda stored: None,
) -> None:
    """Compare the digest of a whole blob, without its index. `advance` gets the bytes done. Raises StoredDamage.

    So many `threads` read ahead: a bucket answers several requests at once, and a folder is read as fast by one.
    """
    digest = blake3()
    chunk = _CHUNK if threads > 1 else _SMALL_CHUNK
    for stored in read_ahead(lambda offset: blob.read_at(offset, chunk), _offsets(blob.size, chunk), threads):
        digest.update(stored)
        advance(len(stored))
    if digest.hexdigest() != stream.own_blob.digest:
        raise of_stream(backup.backup_id, stream, "corrupt", "blob", "the digest of its bytes does not match")


def _offsets(size: int, chunk: int) -> Iterator[int]:
    for offset in range(0, size, chunk):
        # Here, and not in the threads: a signal ends the wait of this thread at once.
        rate_limit.spend(min(chunk, size - offset))
        yield offset


def check_blob(
    backup: Backup,
    stream: Stream,
    blob: StoredFile,
    rows: Sequence[IndexRow],
    *,
    sample_percent: float | None,
    workers: int,
    advance: Callable[[int], None],
    within: BlobRange | None = None,
) -> BlobChecked:
    """Read and check the whole blob, or a random `sample_percent` of it. `advance` gets the stored bytes done.

    With `within`, check this range only, of which `rows` has all index rows; then the digest of the whole blob is not
    compared.
    """
    checked = BlobChecked()
    digest = blake3()
    checker = _Checker(backup, stream, blob)
    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="verify") as pool:
        waiting: deque[Future[_PartChecked]] = deque()

        def take() -> None:
            part = waiting.popleft().result()
            digest.update(part.stored)
            checked.frames += part.frames
            checked.bytes += len(part.stored)
            checked.damage += part.damage
            advance(len(part.stored))

        place = within or BlobRange(0, stream.own_blob.size, 0, stream.size)
        for part in _parts(rows, place, stream.own_blob.size):
            if sample_percent is not None and random.uniform(0, 100) >= sample_percent:  # noqa: S311
                advance(part.end - part.begin)
                continue
            # Here, and not in the pool: a signal ends the wait of this thread at once.
            rate_limit.spend(sum(row.length for row in part.rows if row.blob_offset is not None))
            waiting.append(pool.submit(checker.check, part))
            if len(waiting) > 2 * workers:
                take()
        while waiting:
            take()
    is_whole = sample_percent is None and within is None
    if is_whole and digest.hexdigest() != stream.own_blob.digest and not checked.damage:
        checked.damage.append(
            of_stream(backup.backup_id, stream, "corrupt", "blob", "the digest of its bytes does not match")
        )
    return checked


def _parts(rows: Sequence[IndexRow], place: BlobRange, size: int) -> Iterator[_BlobPart]:
    """Split a range of a blob of `size` bytes after frames, so that each part begins with header text."""
    begin = place.begin
    gathered: list[IndexRow] = []
    for row in rows:
        gathered.append(row)
        if row.blob_offset is None or row.blob_length is None:
            continue
        end = row.blob_offset + row.blob_length
        if end - begin >= _CHUNK:
            yield _BlobPart(begin, end, tuple(gathered), first=begin == 0, last=False)
            begin, gathered = end, []
    is_last = place.end == size
    if is_last or begin < place.end:
        yield _BlobPart(begin, place.end, tuple(gathered), first=begin == 0, last=is_last)


@dataclass(frozen=True, slots=True)
class _PartChecked:
    stored: bytes
    frames: int
    damage: tuple[StoredDamage, ...]


class _Checker:
    """Checks parts of one blob; any number of threads may use it."""

    def __init__(self, backup: Backup, stream: Stream, blob: StoredFile) -> None:
        self._backup = backup
        self._stream = stream
        self._blob = blob
        self._local = local()

    def check(self, part: _BlobPart) -> _PartChecked:
        """Read one part and check its header text and frames."""
        if not hasattr(self._local, "decompressor"):
            self._local.decompressor = Decompressor()
        decompressor: Decompressor = self._local.decompressor
        whole = self._blob.read_at(part.begin, part.end - part.begin)
        # Slices of it are not copies.
        stored = memoryview(whole)
        damage: list[StoredDamage] = []
        frames = 0
        at = part.begin
        expected = b"" if part.first else sparse.TAIL
        first = part.first
        for row in part.rows:
            if row.blob_offset is None or row.blob_length is None:
                expected += sparse.zero_header(row.start, row.length)
                continue
            expected += sparse.data_header(row.start, row.length)
            text = stored[at - part.begin : row.blob_offset - part.begin]
            self._text(decompressor, text, expected, at, first, damage)
            frame = stored[row.blob_offset - part.begin : row.blob_offset + row.blob_length - part.begin]
            self._frame(decompressor, row, frame, damage)
            frames += 1
            at = row.blob_offset + row.blob_length
            expected, first = sparse.TAIL, False
        if part.last:
            self._text(decompressor, stored[at - part.begin :], expected + sparse.STOP, at, first, damage)
        return _PartChecked(whole, frames, tuple(damage))

    def _frame(
        self, decompressor: Decompressor, row: IndexRow, frame: memoryview, damage: list[StoredDamage]
    ) -> None:
        try:
            if digest_of(decompressor.decompress(frame, row.length)) != row.digest:
                raise FormatError("the digest of its data does not match")
        except FormatError as error:
            damage.append(self._corrupt("frame", error, row.start, row.length))

    def _text(
        self,
        decompressor: Decompressor,
        stored: memoryview,
        expected: bytes,
        offset: int,
        first: bool,
        damage: list[StoredDamage],
    ) -> None:
        try:
            limit = len(expected) + (sparse.MAX_META_SIZE if first else 0)
            text = decompressor.decompress_text(stored, min(limit, _TEXT_LIMIT))
            if first:
                text = text[_check_meta(self._stream, text) :]
            if text != expected:
                raise FormatError("its header text does not match the index")
        except FormatError as error:
            damage.append(self._corrupt("blob", error, offset, len(stored)))

    def _corrupt(self, what: What, error: FormatError, start: int, length: int) -> StoredDamage:
        return of_stream(self._backup.backup_id, self._stream, "corrupt", what, error.message, start, length)


def _check_meta(stream: Stream, text: bytes) -> int:
    """Check the meta header that `text` begins with; return its length. Raises FormatError."""
    reader = sparse.SparseReader(BytesIO(text))
    stream_id = reader.meta.get("stream-id")
    if stream_id != stream.stream_id:
        raise FormatError(f"it is the blob of the stream {str(stream_id)[:64]!r}")
    # The blob of a stream of parts has only a part of the disk.
    partial = stream.kind is Kind.INCREMENTAL or bool(stream.parts)
    if reader.virtual_size != stream.size or reader.incremental != partial:
        raise FormatError("its meta header does not match the record")
    return reader.position
