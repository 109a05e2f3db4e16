# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of whole disks as ovirt-imageio computes them."""

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

#: The daemon's default; it takes 1 to 16 MiB.
BLOCK_SIZE = 4 << 20


ALGORITHM = "blake2b"


_DIGEST_SIZE = 32


#: Reading a whole disk takes the daemon about a second for each GiB of data; storage can be much slower.
_TIMEOUT_S = 6 * 3600.0


Pieces = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class DiskChecksum:
    """A checksum, and the size in bytes of what it is of."""

    size: int
    checksum: str


def checksum(
    source: Source, size: int | None = None, *, workers: int = 4, block_size: int = BLOCK_SIZE
) -> str:
    """The checksum of all that `source` holds, in hex; of `size` bytes of it, zeroes behind its end.

    Zero ranges are not read. Raises what reading the source raises.
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
            found: Reader = local.reader
            return found

        def leaf(start: int, pieces: Pieces) -> bytes:
            end = min(start + block_size, length)
            if not pieces:
                return zero_leaf if end - start == block_size else _leaf(bytes(end - start))
            return _leaf(_block(reader(), start, end - start, pieces))

        blocks = _blocks(source.extents(), length, block_size)
        # Not all blocks of a large disk at once: what is under way is bounded by this.
        while batch := list(islice(blocks, 256)):
            for digest in pool.map(lambda block: leaf(*block), batch):
                root.update(digest)
    return root.hexdigest()


def server_checksum(address: ImageioAddress) -> DiskChecksum:
    """What the daemon computes of the disk that an open transfer reaches. Raises ImageioError."""
    # The checksum is of the image on the host, which may be larger than the disk that a GET tells of: hosts round
    # sizes up. The extents go up to the image's end.
    size = ImageioSource(address).size
    answer = ask(
        address,
        "compute the disk's checksum",
        lambda session: session.checksum(ALGORITHM, BLOCK_SIZE),
        timeout_s=_TIMEOUT_S,
    )
    try:
        document = orjson.loads(answer)
        said = (document["algorithm"], document["block_size"])
        found = str(document["checksum"])
    except (ValueError, TypeError, KeyError):
        raise ImageioError(f"ovirt-imageio at {address.host} sent no checksum") from None
    if said != (ALGORITHM, BLOCK_SIZE):
        raise ImageioError(f"ovirt-imageio at {address.host} sent another checksum than asked for: {said}")
    return DiskChecksum(size, found)


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
    """Each block's start and its pieces of data, sorted, in order."""
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
