# SPDX-License-Identifier: GPL-2.0-or-later
"""Single frames and header text: they round-trip, and damaged ones are refused."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.repository.blob import BlobWriter, Compressor, Decompressor, digest_of

_LETTERS = b"A" * 5000 + bytes(range(256)) * 10


def _frame(data: bytes) -> bytes:
    return Compressor().compress(data)


def frame_with_a_lie(claimed: int, blocks: int) -> bytes:
    """A frame that claims to hold `claimed` bytes and has `blocks` blocks of 128 KiB, four bytes each."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b11_0_0_0_1_00, (17 - 10) << 3]) + claimed.to_bytes(8, "little")
    block = (1 << 1) | ((1 << 17) << 3)
    body = b"".join((block | (number == blocks - 1)).to_bytes(3, "little") + b"A" for number in range(blocks))
    return header + body + bytes(4)


@given(st.binary(min_size=1, max_size=3000))
def test_a_frame_round_trips(data: bytes) -> None:
    assert Decompressor().decompress(_frame(data), len(data)) == data


@pytest.mark.parametrize("length", [0, 1, len(_LETTERS) - 1, len(_LETTERS) + 1, 1 << 40])
def test_a_frame_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError):
        Decompressor().decompress(_frame(_LETTERS), length)


def test_a_frame_without_a_checksum_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(_LETTERS)
    with pytest.raises(FormatError, match="no checksum"):
        Decompressor().decompress(frame, len(_LETTERS))


def test_a_frame_without_its_length_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(_LETTERS)
    with pytest.raises(FormatError, match="claims"):
        Decompressor().decompress(frame, len(_LETTERS))


def test_bytes_after_a_frame_are_refused() -> None:
    for tail in (b"\0", _frame(b"A"), _frame(_LETTERS)):
        with pytest.raises(FormatError):
            Decompressor().decompress(_frame(_LETTERS) + tail, len(_LETTERS))


def test_a_frame_truncated_anywhere_is_refused() -> None:
    frame = _frame(_LETTERS)
    for length in range(len(frame)):
        with pytest.raises(FormatError):
            Decompressor().decompress(frame[:length], len(_LETTERS))


@given(st.data())
def test_a_frame_with_changed_bytes_never_returns_wrong_data(data: st.DataObject) -> None:
    frame = bytearray(_frame(_LETTERS))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Decompressor().decompress(bytes(frame), len(_LETTERS))
    except FormatError:
        return
    # The frame's digest notices changes that zstd's 32-bit checksum misses.
    assert len(found) == len(_LETTERS)


def test_a_frame_that_claims_a_tebibyte_costs_no_memory() -> None:
    frame = frame_with_a_lie(1 << 40, 1)
    tracemalloc.start()
    try:
        for length in (4096, 1 << 20):
            with pytest.raises(FormatError, match="1099511627776"):
                Decompressor().decompress(frame, length)
        for read in (Decompressor().decompress_text, Decompressor().first_text):
            with pytest.raises(FormatError):
                read(frame, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_holds_more_than_it_claims_costs_no_memory() -> None:
    claimed = 1 << 20
    frame = frame_with_a_lie(claimed, 10_000)
    tracemalloc.start()
    try:
        decompressor = Decompressor()
        for read in (decompressor.decompress, decompressor.decompress_text, decompressor.first_text):
            with pytest.raises(FormatError):
                read(frame, claimed)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_header_text_may_have_several_frames(texts: list[bytes]) -> None:
    stored = b"".join(_frame(text) for text in texts)
    whole = b"".join(texts)
    assert Decompressor().decompress_text(stored, len(whole)) == whole
    if whole:
        with pytest.raises(FormatError):
            Decompressor().decompress_text(stored, len(whole) - 1)


@pytest.mark.parametrize("text", [b"", b"A", b"stop" * 10])
def test_truncated_header_text_is_refused(text: bytes) -> None:
    stored = _frame(text)
    for length in range(1, len(stored)):
        with pytest.raises(FormatError):
            Decompressor().decompress_text(stored[:length], 1 << 20)


def test_the_first_text_ends_with_its_frame() -> None:
    assert Decompressor().first_text(_frame(b"meta") + _frame(b"data") + b"rest", 1 << 20) == b"meta"


def test_offsets_sizes_and_digests_match_the_bytes_of_the_blob() -> None:
    out = bytearray()
    writer = BlobWriter(out.extend, {"virtual-size": 8192, "incremental": False})
    frame = _frame(b"A" * 4096)
    offset = writer.add_data(0, 4096, frame)
    writer.add_zero(4096, 4096)
    digest = writer.finish()
    assert out[offset : offset + len(frame)] == frame
    assert writer.size == len(out)
    assert digest == digest_of(bytes(out)).hex()


def test_a_million_zero_extents_are_not_gathered_in_memory() -> None:
    pieces: list[int] = []
    writer = BlobWriter(lambda data: pieces.append(len(data)), {"virtual-size": 1 << 40, "incremental": True})
    tracemalloc.start()
    try:
        for number in range(100_000):
            writer.add_zero(number << 20, 512)
        writer.finish()
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert len(pieces) > 50
