# SPDX-License-Identifier: GPL-2.0-or-later
"""Compute checksums of whole disks in the same way as ovirt-imageio."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import orjson

from pitr.copier.protocols import Reader, Source
from pitr.errors import ImageioError
from pitr.extents import ExtentMap
from pitr.ovirt.imageio.disk import ImageioSource
from pitr.ovirt.imageio.session import ImageioAddress, ask
from pitr.system import rate_limit

#: The daemon's default; it accepts 1 to 16 MiB.
BLOCK_SIZE = 4 << 20
ALGORITHM = "blake2b"
_DIGEST_SIZE = 32
#: The daemon needs about a second for each GiB of data, and much longer on slow storage.
_TIMEOUT_S = 6 * 3600.0


Pieces = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class DiskChecksum:
    """The checksum of a disk, and the disk's size in bytes."""

    size: int
    checksum: str


def checksum(
    source: Source, size: int | None = None, *, workers: int = 4, block_size: int = BLOCK_SIZE
) -> str:
    """Return the checksum of the disk of `source` in hex, padded with zeroes to `size` bytes.

    It does not read zero ranges. Raises the errors of the source.
    """
    length = source.size if size is None else size
    if length < source.size:
        raise ValueError(f"a disk of {source.size} bytes does not fit into {length}")
    root = _hash()
    zero_leaf = _leaf(bytes(block_size))
    with ExitStack() as readers, ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        local = threading.local()
        lock = threading.Lock()

        def reader() -> Reader:
            if not hasattr(local, "reader"):
                with lock:
                    local.reader = readers.enter_context(source.open_reader())
            opened: Reader = local.reader
            return opened

        def leaf(start: int, pieces: Pieces) -> bytes:
            end = min(start + block_size, length)
            if not pieces:
                return zero_leaf if end - start == block_size else _leaf(bytes(end - start))
            return _leaf(_block(reader(), start, end - start, pieces))

        blocks = _blocks(source.extents(), length, block_size)
        # Limit the memory: do not start all blocks of a large disk at once.
        at_once = max(1, workers) if rate_limit.is_limited() else 256
        while batch := list(islice(blocks, at_once)):
            # Here, and not in the pool: a signal ends the wait of this thread at once.
            rate_limit.spend(sum(count for _, pieces in batch for _, count in pieces))
            for digest in pool.map(lambda block: leaf(*block), batch):
                root.update(digest)
    return root.hexdigest()


def server_checksum(address: ImageioAddress) -> DiskChecksum:
    """Return the checksum that the daemon computes of the disk of an open transfer. Raises ImageioError."""
    # The checksum covers the image on the host, which can be larger than the disk, because hosts round sizes up. The
    # extents cover the whole image too.
    size = ImageioSource(address).size
    answer = ask(
        address,
        "compute the disk's checksum",
        lambda session: session.checksum(ALGORITHM, BLOCK_SIZE),
        timeout_s=_TIMEOUT_S,
    )
    try:
        document = orjson.loads(answer)
        sent = (document["algorithm"], document["block_size"])
        value = str(document["checksum"])
    except (ValueError, TypeError, KeyError):
        raise ImageioError(f"ovirt-imageio at {address.host} sent no checksum") from None
    if sent != (ALGORITHM, BLOCK_SIZE):
        raise ImageioError(f"ovirt-imageio at {address.host} sent a checksum of the wrong kind: {sent}")
    return DiskChecksum(size, value)


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_SIZE)


def _leaf(data: bytes | bytearray) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_SIZE).digest()


def _block(reader: Reader, start: int, length: int, pieces: Pieces) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    if len(pieces) == 1:
        offset, count = pieces[0]
        reader.read_ranges(pieces, view[offset - start : offset - start + count])
        return data
    packed = memoryview(bytearray(sum(count for _, count in pieces)))
    reader.read_ranges(pieces, packed)
    at = 0
    for offset, count in pieces:
        view[offset - start : offset - start + count] = packed[at : at + count]
        at += count
    return data


def _blocks(extents: ExtentMap, length: int, block_size: int) -> Iterator[tuple[int, Pieces]]:
    """Yield each block's start and the pieces of data in it, both in ascending order."""
    data = ~extents.zero
    ranges = zip(extents.start[data].tolist(), extents.length[data].tolist(), strict=True)
    current = next(ranges, None)
    for start in range(0, length, block_size):
        end = min(start + block_size, length)
        pieces: Pieces = []
        while current is not None and current[0] < end:
            offset = max(current[0], start)
            stop = min(current[0] + current[1], end)
            pieces.append((offset, stop - offset))
            if current[0] + current[1] > end:
                break
            current = next(ranges, None)
        yield start, pieces
