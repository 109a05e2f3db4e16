# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of a disk, as far as its own bytes show it: partition table, partitions, file systems.

pitr reads only signatures, a few KiB for each partition. It does not trust them: a table that points outside the disk,
or in circles, ends there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pitr.guest.filesystem.volume import ReadAt

_SECTOR = 512
#: Disks with sectors of 4 KiB count them in their GPT.
_LARGE_SECTOR = 4096
#: The type of the MBR's entry that protects a GPT.
_PROTECTIVE = 0xEE
_MOST_PARTITIONS = 128
#: The farthest signature of a partition (btrfs) ends here.
_PROBE_SIZE = 0x10000 + 0x48
_EXTENDED = frozenset({0x05, 0x0F, 0x85})

#: The content of a partition that holds logical volumes (`pitr.guest.lvm`).
LVM = "LVM physical volume"

_SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("ntfs", 3, b"NTFS    "),
    ("exFAT", 3, b"EXFAT   "),
    ("ReFS", 3, b"ReFS\0\0\0\0"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("fat", 82, b"FAT32   "),
    ("fat", 54, b"FAT1"),
    ("swap", 4086, b"SWAPSPACE2"),
    *((LVM, sector * 512, b"LABELONE") for sector in (1, 0, 2, 3)),
    ("RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("squashfs", 0, b"hsqs"),
    ("ISO 9660", 0x8001, b"CD001"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("ext", 1080, b"\x53\xef"),
)


@dataclass(frozen=True, slots=True)
class Partition:
    """A range of the disk, in bytes, that can hold a file system. `number` is 0 for the whole disk."""

    number: int
    start: int
    length: int
    content: str | None


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions of a disk. `table` is "gpt", "mbr" or None; without a table the only part is the whole disk."""

    table: str | None
    parts: tuple[Partition, ...]


def look_at(read: ReadAt, size: int) -> Layout:
    """Recognize the layout of a disk of `size` bytes. Raises the errors of `read`."""
    table, ranges = _table(read, size)
    whole = [(0, 0, size)]
    parts = tuple(
        Partition(number, start, length, _content(read, start, length))
        for number, start, length in (ranges if table else whole)
    )
    return Layout(table, parts)


def content_of(read: ReadAt, size: int) -> str | None:
    """Recognize the content of a volume without partitions. Raises the errors of `read`."""
    return _content(read, 0, size)


def _table(read: ReadAt, size: int) -> tuple[str | None, list[tuple[int, int, int]]]:
    if size < 2 * _SECTOR:
        return None, []
    gpt = _gpt(read, size)
    if gpt is not None:
        return "gpt", gpt
    first = read(0, _SECTOR)
    # A FAT or NTFS boot sector ends like an MBR, but its entries make no sense.
    if first[510:] != b"\x55\xaa" or first[3:11] == b"NTFS    " or b"FAT" in (first[54:57], first[82:85]):
        return None, []
    partitions = list(_mbr(read, first, size))
    return ("mbr", partitions) if partitions else (None, [])


def _gpt(read: ReadAt, size: int) -> list[tuple[int, int, int]] | None:
    """Return the partitions of a GPT: the header is in sector 1, its copy in the last sector of the disk."""
    found = _gpt_at(read, size, _SECTOR, _SECTOR)
    if found is not None:
        return found
    first = read(0, _SECTOR)
    if first[510:] != b"\x55\xaa" or all(kind != _PROTECTIVE for kind, _, _ in _entries(first)):
        return None
    # The entry of the protective MBR covers the disk, but it is no partition.
    for sector in (_LARGE_SECTOR, _SECTOR):
        for at in (sector, size // sector * sector - sector):
            found = _gpt_at(read, size, sector, at)
            if found is not None:
                return found
    return []


def _gpt_at(read: ReadAt, size: int, sector: int, at: int) -> list[tuple[int, int, int]] | None:
    """Return the partitions that the GPT header at the offset `at` names; None if there is no header."""
    header = read(at, min(_SECTOR, size - at)) if 0 < at < size else b""
    if header[:8] != b"EFI PART" or len(header) < 92:
        return None
    entries_at, count, entry_size = struct.unpack_from("<QII", header, 72)
    if not 128 <= entry_size <= 4096 or not count:
        return []
    count = min(count, _MOST_PARTITIONS)
    start = entries_at * sector
    if start + count * entry_size > size:
        return []
    entries = read(start, count * entry_size)
    partitions = []
    for number in range(count):
        entry = entries[number * entry_size : (number + 1) * entry_size]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]) and 0 < first <= last and (last + 1) * sector <= size:
            partitions.append((number + 1, first * sector, (last + 1 - first) * sector))
    return partitions


def _mbr(read: ReadAt, sector: bytes, size: int) -> Iterator[tuple[int, int, int]]:
    for number, (kind, first, count) in enumerate(_entries(sector), 1):
        if kind in _EXTENDED:
            yield from _logical(read, first, size)
        elif _fits(kind, first, count, size):
            yield number, first * _SECTOR, count * _SECTOR


def _logical(read: ReadAt, extended: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the logical partitions. Their sectors form a list, each naming the next."""
    at, seen = extended, set[int]()
    for number in range(5, 5 + _MOST_PARTITIONS):
        if at in seen or at == 0 or (at + 1) * _SECTOR > size:
            return
        seen.add(at)
        sector = read(at * _SECTOR, _SECTOR)
        if sector[510:] != b"\x55\xaa":
            return
        (kind, first, count), (next_kind, next_first, _), *_ = _entries(sector)
        if _fits(kind, at + first, count, size):
            yield number, (at + first) * _SECTOR, count * _SECTOR
        if next_kind not in _EXTENDED:
            return
        at = extended + next_first


def _entries(sector: bytes) -> list[tuple[int, int, int]]:
    """Return type, first sector and number of sectors of the four entries."""
    return [
        (sector[offset + 4], *struct.unpack_from("<II", sector, offset + 8))
        for offset in (446, 462, 478, 494)
    ]


def _fits(kind: int, first: int, count: int, size: int) -> bool:
    return kind != 0 and first > 0 and count > 0 and (first + count) * _SECTOR <= size


def _content(read: ReadAt, start: int, length: int) -> str | None:
    data = read(start, min(length, _PROBE_SIZE))
    return next((name for name, at, magic in _SIGNATURES if data[at : at + len(magic)] == magic), None)
