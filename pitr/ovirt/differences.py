# SPDX-License-Identifier: GPL-2.0-or-later
"""Send only the ranges that differ into a disk, through one upload, and prove the disk by the server's checksum.

A range that is sent twice does no harm, so after trouble pitr sends again what it has not flushed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

from pitr.copier.copy import DEFAULT_WORKERS, copy
from pitr.copier.protocols import Source, Writer
from pitr.copier.wrapped import WrappedSource
from pitr.errors import ImageioError
from pitr.extents import Extent, ExtentMap
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import Engine, InPlaceUpload, Transfer, start_download
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.imageio.address import ImageioAddress
from pitr.ovirt.imageio.checksum import DiskChecksum, server_checksum
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.ovirt.imageio.keep_alive import kept_alive
from pitr.reporting import Notify, Progress
from pitr.system.cancellation import pause
from pitr.system.closing import Closes
from pitr.system.retry import retrying

T = TypeVar("T")

#: pitr flushes the disk after this many bytes of data, so that trouble does not make it send more than that again.
FLUSHED_PART: Final = 1 << 30
#: The most ranges between two flushes.
_MOST_RANGES: Final = 1 << 16
#: How often pitr revives the upload for one part before it gives up.
_MOST_REVIVALS: Final = 5
#: The longest pause between two attempts to reach the engine, in seconds.
_LONGEST_PAUSE_S: Final = 30.0
#: imageio answers with these when the request itself is wrong, and not the transfer.
_FINAL: Final = frozenset({400, 405, 416})


@dataclass(frozen=True, slots=True)
class Sent:
    """The bytes that the server accepted, as data and as zeroes. Ranges that were sent again count again."""

    written: int
    zeroed: int


def send_difference(
    engine: Engine,
    source: Source,
    upload: Transfer,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    notify: Notify | None = None,
    part_bytes: int = FLUSHED_PART,
    sleep: Callable[[float], None] = pause,
) -> Sent:
    """Send the data and zero ranges of `source`, and nothing else, into the disk of `upload`, and flush it.

    The extents of `source` are the ranges that differ. If imageio, the network or the engine has trouble, it revives an
    InPlaceUpload, tells `notify`, and sends the ranges since the last flush again; with any other transfer it gives up.
    `progress` gets bytes of the ranges. The caller closes the source and the upload. Raises ImageioError, EngineError,
    DiskRemoved, the errors of the source.
    """
    count = _Count()
    extents = source.extents()
    total, done = extents.data_bytes + extents.zero_bytes, 0
    for part in _parts(extents, part_bytes):

        def send(address: ImageioAddress, part: ExtentMap = part, done: int = done) -> None:
            report = None if progress is None else lambda now, _: progress(done + now, total)
            sink = _CountedSink(address, count, sleep)
            with sink.kept_alive():
                copy(_Part(source, part), sink, workers=workers, progress=report)

        _with_revivals(engine, upload, send, notify, sleep)
        done += part.data_bytes + part.zero_bytes
    return Sent(count.written, count.zeroed)


def upload_checksum(
    engine: Engine,
    upload: Transfer,
    *,
    notify: Notify | None = None,
    sleep: Callable[[float], None] = pause,
) -> DiskChecksum:
    """Return the checksum that the server computes of the disk of an open upload; flush the disk before.

    It revives an InPlaceUpload after trouble. Raises ImageioError, EngineError, DiskRemoved.
    """
    return _with_revivals(engine, upload, server_checksum, notify, sleep)


def disk_checksum(engine: Engine, disk_id: str) -> DiskChecksum:
    """Return the checksum that the server computes of a disk that no VM uses now.

    Raises EngineBusy, EngineError, ImageioError.
    """
    with start_download(engine, disk_id) as download:
        return server_checksum(imageio_address(engine, download))


def _with_revivals(
    engine: Engine,
    upload: Transfer,
    work: Callable[[ImageioAddress], T],
    notify: Notify | None,
    sleep: Callable[[float], None],
) -> T:
    revivals = 0
    while True:
        try:
            return work(imageio_address(engine, upload))
        except ImageioError as trouble:
            revivals += 1
            if not isinstance(upload, InPlaceUpload) or trouble.status in _FINAL or revivals > _MOST_REVIVALS:
                raise
            if notify is not None:
                notify(f"{trouble.message}; resuming the upload to disk {upload.disk_id}")
        retrying(upload.revive, transient=_is_transient, longest_pause_s=_LONGEST_PAUSE_S, sleep=sleep)


def _is_transient(error: Exception) -> bool:
    return isinstance(error, EngineFault) and error.transient


def _parts(extents: ExtentMap, most_bytes: int) -> Iterator[ExtentMap]:
    """Cut the extents into maps of at most `most_bytes` of data; a longer range is cut."""
    part: list[Extent] = []
    data = 0
    for start, length, zero in extents.merged():
        end, at = start + length, start
        while at < end:
            if part and ((not zero and data == most_bytes) or len(part) >= _MOST_RANGES):
                yield ExtentMap.of(part)
                part, data = [], 0
            count = end - at if zero else min(end - at, most_bytes - data)
            part.append(Extent(at, count, zero))
            data += 0 if zero else count
            at += count
    if part:
        yield ExtentMap.of(part)


class _Part(WrappedSource[Source]):
    """Some of the ranges of another source."""

    def __init__(self, source: Source, extents: ExtentMap) -> None:
        super().__init__(source)
        self._extents = extents

    def extents(self) -> ExtentMap:
        return self._extents


class _Count:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.written = self.zeroed = 0

    def add(self, *, written: int = 0, zeroed: int = 0) -> None:
        with self._lock:
            self.written += written
            self.zeroed += zeroed


class _CountedSink(ImageioSink):
    """A sink of an upload that counts what the server accepts, and leaves one connection to keep the upload open."""

    def __init__(self, address: ImageioAddress, count: _Count, sleep: Callable[[float], None]) -> None:
        super().__init__(address, reads_zero=False, sleep=sleep)
        self._address = address
        self._count = count

    @property
    def max_writers(self) -> int:
        return max(1, super().max_writers - 1)

    def kept_alive(self) -> AbstractContextManager[None]:
        return kept_alive(self._address) if super().max_writers > 1 else nullcontext()

    def open_writer(self) -> Writer:  # type: ignore[override]
        return _CountedWriter(super().open_writer(), self._count)


class _CountedWriter(Closes):
    def __init__(self, writer: Writer, count: _Count) -> None:
        self._writer = writer
        self._count = count

    def write(self, offset: int, data: memoryview) -> None:
        self._writer.write(offset, data)
        self._count.add(written=len(data))

    def zero(self, offset: int, length: int) -> None:
        self._writer.zero(offset, length)
        self._count.add(zeroed=length)

    def close(self) -> None:
        self._writer.close()
