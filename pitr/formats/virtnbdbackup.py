# SPDX-License-Identifier: GPL-2.0-or-later
"""virtnbdbackup's streams (its `*.data` files), versions 1 and 2: a variant of the oVirt sparse stream.

The framing is the same, the keys of the meta header differ. With lz4, a `data` header states the length of the data,
and its payload is one lz4 frame for each read request. A JSON list of the frames' sizes, CR LF and a `comp` header
follow `stop`. An incremental stream has no zero extents, so it lacks ranges that became zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

import orjson

from pitr.errors import FormatError, ProgramMissing
from pitr.extents import MAX_SIZE
from pitr.formats.reading import read_exactly
from pitr.formats.sparse import HEADER_SIZE, MAX_META_SIZE, TAIL, Header, parse_header

_PIECE = 1 << 16
#: Room for the sizes of ten million frames.
_MAX_TRAILER = 1 << 27
_MAX_NAME = 4096
_VERSIONS = (1, 2)

NOTE = "virtnbdbackup's incremental streams omit ranges that became zero: these may show older data at this point"


@dataclass(frozen=True, slots=True)
class Meta:
    """The content of the meta header. `date` is local time of the machine that took the backup, without a zone."""

    size: int
    disk_name: str
    incremental: bool
    checkpoint: str
    parent_checkpoint: str | None
    date: datetime | None
    compressed: bool
    lists_sizes: bool

    @property
    def creates_checkpoint(self) -> bool:
        """Whether the backup created its checkpoint. An incremental backup of a VM that was down names its parent's."""
        return bool(self.checkpoint) and self.checkpoint != self.parent_checkpoint


def is_meta(document: Mapping[str, Any]) -> bool:
    """Return whether the JSON of a meta header is virtnbdbackup's."""
    return "virtualSize" in document and "checkpointName" in document


class VirtnbdbackupReader:
    """Reads a stream front to back from a binary file object, which the caller closes.

    Iterate over its headers in order. After a `data` header, `read` exactly its bytes before the next header. Raises
    FormatError unless the stream is complete and well-formed, and ProgramMissing if it needs the lz4 library.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._input = _PushBack(stream)
        kind, _, length = parse_header(self._take(HEADER_SIZE))
        if kind != b"meta" or length > MAX_META_SIZE:
            raise FormatError("the stream does not begin with its meta header")
        self.meta = _parse(self._take(length))
        self._expect_tail()
        self._left = 0
        self._frames = _Lz4Frames(self._input) if self.meta.compressed else None

    def __iter__(self) -> Iterator[Header]:
        end = 0
        while True:
            if self._left:
                raise FormatError(f"{self._left} bytes of an extent were not read")
            kind, start, length = parse_header(self._take(HEADER_SIZE))
            if kind == b"stop":
                break
            if kind == b"meta" or length == 0:
                raise FormatError(f"the stream has a wrong header at {start}")
            if start < end:
                raise FormatError(
                    f"the extent at {start} begins before {end}, the end of the extent before it"
                )
            end = start + length
            if end > self.meta.size:
                raise FormatError(f"the extent at {start} exceeds the disk of {self.meta.size} bytes")
            self._left = length if kind == b"data" else 0
            yield Header(kind == b"zero", start, length)
        self._end()

    def read(self, length: int) -> bytes:
        """Read exactly `length` bytes of the current data extent."""
        if length > self._left:
            raise ValueError(f"only {self._left} bytes are left of the extent")
        data = self._take(length) if self._frames is None else self._frames.read(length)
        self._left -= length
        if self._left == 0 and length:
            if self._frames is not None:
                self._frames.end_extent()
            self._expect_tail()
        return data

    def _end(self) -> None:
        """Check the trailer of a compressed stream, and that the stream ends."""
        rest = b"".join(iter(lambda: self._input.read(_PIECE), b"")) if self._frames is None else b""
        if self._frames is not None:
            parts, total = [], 0
            while part := self._input.read(_PIECE):
                parts.append(part)
                total += len(part)
                if total > _MAX_TRAILER:
                    raise FormatError("the stream's list of compressed sizes is too long")
            # Level 0 compresses too, but virtnbdbackup leaves out the list then.
            if parts or self.meta.lists_sizes:
                self._frames.check(b"".join(parts))
        if rest:
            raise FormatError("the stream has data after its end")

    def _expect_tail(self) -> None:
        if self._take(len(TAIL)) != TAIL:
            raise FormatError("an extent's data does not end with CR LF")

    def _take(self, length: int) -> bytes:
        return read_exactly(self._input.read, length)


class _PushBack:
    """A stream that accepts bytes back that were read too early."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._back = b""

    def read(self, length: int) -> bytes:
        if self._back:
            data, self._back = self._back[:length], self._back[length:]
            return data
        return self._stream.read(length)

    def put_back(self, data: bytes) -> None:
        self._back = data + self._back


@dataclass(slots=True)
class _Lz4Frames:
    """Reads the payloads of a compressed stream. `sizes` has the compressed sizes of each extent's frames."""

    input: _PushBack
    sizes: list[list[int]] = field(default_factory=list)
    _extent: list[int] = field(default_factory=list)
    _machine: Any = None
    _taken: int = 0

    def read(self, length: int) -> bytes:
        library = _lz4()
        parts = []
        while length:
            if self._machine is None:
                self._machine, self._taken = library.LZ4FrameDecompressor(), 0
            data = self._decompress(length)
            parts.append(data)
            length -= len(data)
            if self._machine.eof:
                self._end_frame()
        return b"".join(parts)

    def end_extent(self) -> None:
        """Read the end mark and checksum of the extent's last frame."""
        while self._machine is not None:
            if self._decompress(1):
                raise FormatError("an extent's data is longer than its header says")
            if self._machine.eof:
                self._end_frame()
        self.sizes.append(self._extent)
        self._extent = []

    def check(self, trailer: bytes) -> None:
        """Compare the frames that were read with the list of frame sizes at the end of the stream."""
        body, header = trailer[: -HEADER_SIZE - len(TAIL)], trailer[-HEADER_SIZE:]
        if header != b"comp %016x %016x\r\n" % (0, len(body)) or trailer[len(body) : -HEADER_SIZE] != TAIL:
            raise FormatError("the stream does not end with the list of its compressed sizes")
        try:
            listed = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise FormatError("the list of compressed sizes is not JSON") from None
        flat: list[Any] = []
        for extent in listed if isinstance(listed, list) else [None]:
            split = list(extent.values()) if isinstance(extent, dict) else [[extent]]
            flat += [size for sizes in split for size in (sizes if isinstance(sizes, list) else [sizes])]
        if flat != [size for sizes in self.sizes for size in sizes]:
            raise FormatError("the list of compressed sizes does not match the stream's data")

    def _decompress(self, length: int) -> bytes:
        given = b""
        if self._machine.needs_input:
            given = self.input.read(_PIECE)
            if not given:
                raise FormatError("the stream ends too early")
            self._taken += len(given)
        try:
            data: bytes = self._machine.decompress(given, max_length=length)
        except (RuntimeError, EOFError) as error:
            raise FormatError(f"an lz4 frame cannot be decompressed: {error}") from None
        return data

    def _end_frame(self) -> None:
        unused = self._machine.unused_data or b""
        self.input.put_back(unused)
        self._extent.append(self._taken - len(unused))
        self._machine = None


def _lz4() -> Any:
    try:
        import lz4.frame  # noqa: PLC0415 - an extra
    except ImportError:
        raise ProgramMissing(
            "cannot read this stream: it is compressed with lz4, and the lz4 library is not installed",
            "Install it: pip install 'pitr[virtnbdbackup]'.",
        ) from None
    return lz4.frame


def _parse(body: bytes) -> Meta:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the meta header is not JSON: {error}") from None
    if not isinstance(document, dict) or not is_meta(document):
        raise FormatError("the meta header is not virtnbdbackup's")
    size, version = document["virtualSize"], document.get("streamVersion", 1)
    incremental, compressed = document.get("incremental"), document.get("compressed", False)
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise FormatError(f"the meta header has an invalid size: {size!r}")
    if version not in _VERSIONS:
        raise FormatError(f"pitr cannot read version {version!r} of virtnbdbackup's streams")
    # With -z it is the level of the compression, which may be 0.
    if type(incremental) is not bool or type(compressed) not in (bool, int):
        raise FormatError("the meta header does not state whether the stream is incremental and compressed")
    packed = compressed is not False
    if packed and document.get("compressionMethod", "lz4") != "lz4":
        raise FormatError(f"unknown compression: {document['compressionMethod']!r}")
    parent = document.get("parentCheckpoint") or None
    checkpoint: Any = document["checkpointName"] or ""
    disk_name: Any = document.get("diskName")
    for name in (checkpoint, disk_name, parent or ""):
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise FormatError("the meta header has an invalid name")
    date = _date(document.get("date"))
    return Meta(size, disk_name, incremental, checkpoint, parent, date, packed, bool(compressed))


def _date(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
