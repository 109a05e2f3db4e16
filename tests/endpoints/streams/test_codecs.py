# SPDX-License-Identifier: GPL-2.0-or-later
"""Every codec against an independent one, for any extents: each reads the other's output."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.copier import copy
from pitr.copier.pour import pour
from pitr.endpoints.images.memory import MemorySink, MemorySource
from pitr.endpoints.streams.detect import open_stream
from pitr.endpoints.streams.rbd_diff import RbdDiffSink
from pitr.endpoints.streams.sparse import SparseStreamSink
from pitr.extents import ExtentMap
from tests.support.independent import apply_rbd, apply_sparse, rbd_of, sparse_of, unzstd, virtnbdbackup_of

Extents = list[tuple[int, int, bool]]
_OLD = 0x5A


@st.composite
def disks(draw: st.DrawFn) -> tuple[bytes, Extents]:
    """The content of a disk of any size, and sorted extents with gaps. Unchanged ranges hold 0x5A."""
    size = draw(st.integers(1, 40_000))
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})
    content = bytearray([_OLD]) * size
    extents: Extents = []
    chance = random.Random(draw(st.integers(0, 1 << 30)))
    for start, end in itertools.pairwise(cuts):
        kind = draw(st.sampled_from("dzu"))
        if kind != "u":
            content[start:end] = chance.randbytes(end - start) if kind == "d" else bytes(end - start)
            extents.append((start, end - start, kind == "z"))
    return bytes(content), extents


def named(extents: Extents, data: str, zero: str) -> list[tuple[str, int, int]]:
    return [(zero if is_zero else data, start, length) for start, length, is_zero in extents]


def _sparse(content: bytes, extents: Extents) -> bytes:
    return sparse_of(content, named(extents, "data", "zero"), incremental=True)


def _rbd(content: bytes, extents: Extents) -> bytes:
    return rbd_of(content, named(extents, "w", "z"), from_snapshot="a", to_snapshot="b")


def _rbd_v2(content: bytes, extents: Extents) -> bytes:
    return rbd_of(content, named(extents, "w", "z"), from_snapshot="a", v2=True)


def _virtnbdbackup(content: bytes, extents: Extents) -> bytes:
    return virtnbdbackup_of(
        content, named(extents, "data", "zero"), incremental=True, checkpoint="1", parent="0"
    )


def _virtnbdbackup_lz4(content: bytes, extents: Extents) -> bytes:
    return virtnbdbackup_of(
        content,
        named(extents, "data", "zero"),
        incremental=True,
        checkpoint="1",
        parent="0",
        lz4_request=3000,
    )


@pytest.mark.parametrize(
    "write", [_sparse, _rbd, _rbd_v2, _virtnbdbackup, _virtnbdbackup_lz4], ids=lambda write: write.__name__
)
@settings(max_examples=40, deadline=None)
@given(disk=disks())
def test_what_independent_writers_write_is_read(
    write: Callable[[bytes, Extents], bytes], disk: tuple[bytes, Extents]
) -> None:
    content, extents = disk
    source = open_stream(io.BytesIO(write(content, extents)))
    assert not source.whole and source.size == len(content)
    sink = MemorySink.over(bytearray([_OLD]) * len(content), len(content), reads_zero=False)
    copied = pour(source, sink, workers=2)
    assert sink.content == content
    assert copied.written == sum(length for _, length, zero in extents if not zero)
    assert copied.zeroed == sum(length for _, length, zero in extents if zero)


class _Drip(io.RawIOBase):
    """Returns a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, chance: random.Random) -> None:
        self._data = io.BytesIO(data)
        self._chance = chance

    def read(self, length: int = -1) -> bytes:
        return self._data.read(min(length, self._chance.randrange(1, 700)) if length > 0 else length)


@pytest.mark.parametrize("write", [_sparse, _rbd_v2, _virtnbdbackup_lz4], ids=lambda write: write.__name__)
@settings(max_examples=15, deadline=None)
@given(disk=disks(), seed=st.integers(0, 1 << 20))
def test_pipes_may_give_as_little_as_they_like(
    write: Callable[[bytes, Extents], bytes], disk: tuple[bytes, Extents], seed: int
) -> None:
    content, extents = disk
    source = open_stream(_Drip(write(content, extents), random.Random(seed)))  # type: ignore[arg-type]
    sink = MemorySink.over(bytearray([_OLD]) * len(content), len(content), reads_zero=False)
    pour(source, sink, workers=1)
    assert sink.content == content


@pytest.mark.parametrize("how", ["sparse", "sparse-zstd", "rbd", "rbd-v2"])
@settings(max_examples=20, deadline=None)
@given(disk=disks(), frame_size=st.sampled_from([4096, 65536]))
def test_what_is_written_independent_readers_read(
    how: str, disk: tuple[bytes, Extents], frame_size: int
) -> None:
    content, extents = disk
    out = io.BytesIO()
    sink: Any
    if how.startswith("sparse"):
        compression: Any = "zstd" if how == "sparse-zstd" else "none"
        sink = SparseStreamSink(
            out.write, len(content), incremental=True, compression=compression, frame_size=frame_size
        )
    else:
        sink = RbdDiffSink(out.write, len(content), version=2 if how == "rbd-v2" else 1, from_snapshot="a")
    copy(MemorySource(content, ExtentMap.of(extents)), sink, workers=2)
    found = bytearray([_OLD]) * len(content)
    if how.startswith("sparse"):
        apply_sparse(unzstd(out.getvalue()) if how == "sparse-zstd" else out.getvalue(), found)
    else:
        apply_rbd(out.getvalue(), found)
    assert found == content
