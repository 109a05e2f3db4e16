# SPDX-License-Identifier: GPL-2.0-or-later
"""Detection of changes in the log of an XFS that are not yet in their final places.

XFS writes changes of names, sizes and places to its log first. Within the next minute it writes them to the places
where a reader without the log finds them. A clean unmount and a freeze write all of them.
The kernel's fs/xfs/libxfs/xfs_log_format.h defines the structures.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pitr.guest.filesystem.volume import ReadAt

_BLOCK = 512
_MAGIC = 0xFEEDBABE
_HEADER_SPAN = 32768  # bytes of a record for each block of its header
_UNMOUNT = 0x20
_BUFFER = 0x123C
#: The log of a frozen file system ends with at most this many blocks: a record or two about the superblock.
_AT_REST = 16


def holds_changes(read: ReadAt, size: int) -> bool:
    """Return whether a log of `size` bytes has changes to replay. Return True when the log is unreadable."""
    try:
        return _holds_changes(read, size // _BLOCK)
    except (struct.error, ValueError, IndexError):
        return True


def _holds_changes(read: ReadAt, blocks: int) -> bool:
    def block(number: int) -> bytes:
        return read(number % blocks * _BLOCK, _BLOCK)

    def cycle(number: int) -> int:
        first, second = struct.unpack_from(">II", block(number))
        return int(second if first == _MAGIC else first)

    if blocks < 2 or cycle(0) == 0:
        return False
    head = _head(cycle, blocks)
    # Records are at most 256 KiB; the last one ends at the head.
    start = next(
        (at for at in range(head - 1, head - 520, -1) if struct.unpack_from(">I", block(at))[0] == _MAGIC),
        None,
    )
    if start is None:
        raise ValueError("a log without records")
    (tail,) = struct.unpack_from(">Q", block(start), 24)
    length = (head - (tail & 0xFFFFFFFF)) % blocks
    if length > _AT_REST:
        return True
    return any(
        changed
        for at in range(head - length, head)
        if struct.unpack_from(">I", block(at))[0] == _MAGIC
        for changed in _changes(block, at)
    )


def _head(cycle: Callable[[int], int], blocks: int) -> int:
    """Return the block behind the newest one, where the number of the round through the log decreases."""
    first, low, high = cycle(0), 0, blocks
    if cycle(blocks - 1) == first:
        return blocks
    while high - low > 1:
        middle = (low + high) // 2
        if cycle(middle) == first:
            low = middle
        else:
            high = middle
    return high


def _changes(block: Callable[[int], bytes], at: int) -> list[bool]:
    """Return, for each operation that starts in a record, whether it changes more than the superblock."""
    header = block(at)
    (length,) = struct.unpack_from(">I", header, 12)
    (count,) = struct.unpack_from(">I", header, 40)
    (span,) = struct.unpack_from(">I", header, 320)
    begin = at + max(1, -(-span // _HEADER_SPAN))
    data = bytearray()
    for number in range(min(_AT_REST, -(-length // _BLOCK))):
        # The first word of each block holds the round's number. The header holds the word that it replaces.
        data += header[44 + 4 * number : 48 + 4 * number] + block(begin + number)[4:]
    changes: list[bool] = []
    place, more = 0, 0
    for _ in range(count):
        size, flags = struct.unpack_from(">IxB", data, place + 4)
        region = data[place + 12 : place + 12 + size]
        place += 12 + size
        if size == 0 or flags & _UNMOUNT or bytes(region[:4]) in (b"NART", b"TRAN"):
            continue
        if more:
            more -= 1
            continue
        kind, regions = struct.unpack_from("<HH", region)
        more = regions - 1
        superblock = kind == _BUFFER and struct.unpack_from("<q", region, 8)[0] == 0
        changes.append(not superblock)
    return changes
