# SPDX-License-Identifier: GPL-2.0-or-later
"""The sparse stream: it round-trips, and any other input raises FormatError."""

from __future__ import annotations

import io
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.extents import MAX_SIZE
from pitr.formats import sparse

_Parts = list[tuple[int, bytes | int]]


def _stream(parts: _Parts, size: int, *, incremental: bool) -> bytes:
    """Return a stream of (start, data) and (start, length of zeroes) parts."""
    out = sparse.meta_block({"virtual-size": size, "incremental": incremental})
    for start, what in parts:
        if isinstance(what, bytes):
            out += sparse.data_header(start, len(what)) + what + sparse.TAIL
        else:
            out += sparse.zero_header(start, what)
    return out + sparse.STOP


def _read(stream: bytes, piece: int = 1 << 20) -> tuple[sparse.SparseReader, _Parts]:
    reader = sparse.SparseReader(io.BytesIO(stream))
    parts: _Parts = []
    for header in reader:
        if header.zero:
            parts.append((header.start, header.length))
            continue
        data = b""
        while len(data) < header.length:
            data += reader.read(min(piece, header.length - len(data)))
        parts.append((header.start, data))
    return reader, parts


@st.composite
def _streams(draw: st.DrawFn) -> tuple[_Parts, int, bool]:
    incremental = draw(st.booleans())
    parts: _Parts = []
    at = 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 1 << 40)) if incremental else 0
        what = draw(st.binary(min_size=1, max_size=40) | st.integers(1, 1 << 40))
        parts.append((at, what))
        at += len(what) if isinstance(what, bytes) else what
    return parts, at + (draw(st.integers(0, 1000)) if incremental else 0), incremental


@given(_streams(), st.integers(1, 50))
def test_a_stream_round_trips(stream: tuple[_Parts, int, bool], piece: int) -> None:
    parts, size, incremental = stream
    written = _stream(parts, size, incremental=incremental)
    reader, found = _read(written, piece)
    assert found == parts
    assert (reader.virtual_size, reader.incremental) == (size, incremental)
    assert reader.position == len(written)


def test_a_header_is_forty_bytes_with_sixteen_hex_digits() -> None:
    assert sparse.data_header(0x10000, 0x200) == b"data 0000000000010000 0000000000000200\r\n"
    assert sparse.zero_header(MAX_SIZE, 0) == b"zero 1000000000000000 0000000000000000\r\n"
    assert sparse.STOP == b"stop 0000000000000000 0000000000000000\r\n"
    assert {len(sparse.data_header(1, 2)), len(sparse.zero_header(1, 2)), len(sparse.STOP)} == {40}


_WHOLE = _stream([(0, b"A" * 30), (30, 512), (542, b"\r\n")], 544, incremental=False)


@pytest.mark.parametrize("length", range(len(_WHOLE)))
def test_a_stream_truncated_anywhere_is_refused(length: int) -> None:
    with pytest.raises(FormatError):
        _read(_WHOLE[:length])


def _with_header(header: bytes) -> bytes:
    return sparse.meta_block({"virtual-size": 4096, "incremental": True}) + header + sparse.STOP


@pytest.mark.parametrize(
    "header",
    [
        b"zero 00000000000000000 00000000000001000\r\n",  # 17 digits, as oVirt's documentation shows them
        b"zero 0000000000000000 0000000000000000\r\n",  # no length
        b"zero 0000000000000000 0000000000001001\r\n",  # beyond the end
        b"zero 0000000000001001 0000000000000001\r\n",  # starts beyond the end
        b"zero 0000000000000000 ffffffffffffffff\r\n",
        b"data ffffffffffffffff ffffffffffffffff\r\n",
        b"data 1000000000000000 0000000000000001\r\n",
        b"zero 0x00000000000000 0000000000000200\r\n",
        b"zero 000000000000000_ 0000000000000200\r\n",
        b"zero +000000000000000 0000000000000200\r\n",
        b"zero                0 0000000000000200\r\n",
        b"zero -000000000000001 0000000000000200\r\n",
        b"ZERO 0000000000000000 0000000000000200\r\n",
        b"comp 0000000000000000 0000000000000200\r\n",
        b"zero\t0000000000000000 0000000000000200\r\n",
        b"zero 0000000000000000 0000000000000200\n\r",
        b"zero 0000000000000000\n0000000000000200\r\n",
        bytes(40),
        b"\xff" * 40,
    ],
)
def test_headers_of_another_form_are_refused(header: bytes) -> None:
    with pytest.raises(FormatError):
        _read(_with_header(header))


@pytest.mark.parametrize(
    ("parts", "incremental"),
    [
        ([(0, b"AAAA"), (2, b"BB")], True),  # overlaps
        ([(8, 4), (0, 4)], True),  # goes back
        ([(0, 8), (0, 8)], True),  # twice
        ([(0, 8), (12, 4)], False),  # a full with a gap
        ([(4, 12)], False),
        ([(0, 12)], False),  # a full ends early
        ([], False),
        ([(0, 20)], False),  # beyond the end
        ([(12, b"AAAAAAAA")], True),
    ],
)
def test_extents_that_overlap_go_back_or_exceed_the_disk_are_refused(
    parts: _Parts, incremental: bool
) -> None:
    with pytest.raises(FormatError):
        _read(_stream(parts, 16, incremental=incremental))


def test_a_second_meta_header_is_refused() -> None:
    meta = sparse.meta_block({"virtual-size": 0, "incremental": False})
    with pytest.raises(FormatError, match="second meta"):
        _read(meta + meta + sparse.STOP)


def test_a_stream_must_begin_with_its_meta_header() -> None:
    with pytest.raises(FormatError, match="meta"):
        _read(sparse.STOP)


def test_a_stream_without_its_stop_header_is_refused() -> None:
    with pytest.raises(FormatError, match="ends"):
        _read(_WHOLE[: -len(sparse.STOP)])


def test_data_must_end_with_cr_lf() -> None:
    broken = _WHOLE.replace(b"A" * 30 + b"\r\n", b"A" * 30 + b"\n\n")
    with pytest.raises(FormatError, match="CR LF"):
        _read(broken)


def _with_meta(body: bytes) -> bytes:
    return b"meta %016x %016x\r\n" % (0, len(body)) + body + sparse.TAIL + sparse.STOP


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"virtual-size":' + b"[" * 500 + b"]" * 500 + b',"incremental":false}',
        b'{"virtual-size": NaN, "incremental": false}',
        b'{"virtual-size": Infinity, "incremental": false}',
        b'{"virtual-size": 1e3, "incremental": true}',
        b'{"virtual-size": 0.0, "incremental": true}',
        b'{"virtual-size": true, "incremental": true}',
        b'{"virtual-size": -1, "incremental": true}',
        b'{"virtual-size": 1152921504606846977, "incremental": true}',
        b'{"virtual-size": 99999999999999999999999999999999999999, "incremental": true}',
        b'{"virtual-size": "0", "incremental": false}',
        b'{"virtual-size": null, "incremental": false}',
        b'{"virtual-size": 0}',
        b'{"virtual-size": 0, "incremental": 0}',
        b'{"virtual-size": 0, "incremental": "false"}',
        b'{"incremental": false}',
    ],
)
def test_invalid_meta_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        _read(_with_meta(body))


@pytest.mark.parametrize("claimed", [(1 << 20) + 1, 1 << 40, (1 << 60) - 1, (1 << 64) - 1])
def test_meta_that_claims_a_huge_size_costs_no_memory(claimed: int) -> None:
    stream = b"meta %016x %016x\r\n" % (0, claimed) + b"{}"
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            _read(stream)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_other_keys_of_the_meta_header_are_kept() -> None:
    meta = {"virtual-size": 0, "data-size": 0, "date": "2020", "incremental": False, "x": [1, "ü"]}
    reader, _ = _read(sparse.meta_block(meta) + sparse.STOP)
    assert reader.meta == meta
    assert orjson.loads(sparse.meta_block(meta)[40:-2]) == meta


@given(st.data())
def test_a_changed_stream_is_read_or_refused(data: st.DataObject) -> None:
    stream = bytearray(_WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        action = data.draw(st.sampled_from(["change", "insert", "delete", "copy"]))
        if action == "change":
            stream[at] = data.draw(st.integers(0, 255))
        elif action == "insert":
            stream[at:at] = data.draw(st.binary(min_size=1, max_size=50))
        elif action == "delete":
            del stream[at : at + data.draw(st.integers(1, 50))]
        else:
            stream[at:at] = stream[data.draw(st.integers(0, len(stream) - 1)) :][:40]
        if not stream:
            break
    try:
        _, parts = _read(bytes(stream))
    except FormatError:
        return
    end = 0
    for start, what in parts:
        assert start >= end
        end = start + (len(what) if isinstance(what, bytes) else what)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(FormatError):
        _read(noise)


def test_unread_data_is_an_error_at_the_next_header() -> None:
    reader = sparse.SparseReader(io.BytesIO(_WHOLE))
    headers = iter(reader)
    next(headers)
    reader.read(10)
    with pytest.raises(FormatError, match="20 bytes of an extent were not read"):
        next(headers)


def test_a_read_beyond_an_extent_is_refused() -> None:
    reader = sparse.SparseReader(io.BytesIO(_WHOLE))
    next(iter(reader))
    with pytest.raises(ValueError, match="only 30"):
        reader.read(31)


class _OneByteAtATime(io.RawIOBase):
    """A pipe whose writer is slow."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1))


def test_a_stream_may_arrive_in_pieces() -> None:
    reader = sparse.SparseReader(_OneByteAtATime(_WHOLE))  # type: ignore[arg-type]
    assert [(header.start, reader.read(0 if header.zero else header.length)) for header in reader] == [
        (0, b"A" * 30),
        (30, b""),
        (542, b"\r\n"),
    ]
