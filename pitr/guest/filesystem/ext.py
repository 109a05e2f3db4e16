# SPDX-License-Identifier: GPL-2.0-or-later
"""ext2, ext3 and ext4.

dissect.extfs reads the superblock, the groups and the inodes. pitr reads folders and the places of data: the library
takes block 0 for an indirect block that does not exist, and omits some entries of a folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from dissect.extfs import extfs

from pitr.errors import FileSystemError
from pitr.guest.filesystem.base import (
    LONGEST_TARGET,
    EntryKind,
    FileContent,
    FileSystem,
    Node,
    kind_of,
    of_bytes,
)
from pitr.guest.filesystem.volume import VolumeFile

# From the kernel's Documentation/filesystems/ext4: s_feature_incompat, i_flags.
_RECOVER = 0x4
_EXTENTS = 0x40
_64BIT = 0x80
#: filetype, recover, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold
_KNOWN = (
    0x2 | _RECOVER | _EXTENTS | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)
_BIGALLOC = 0x200  # of s_feature_ro_compat
_FLAG_ENCRYPTED = 0x800
_FLAG_EXTENTS = 0x80000
_FLAG_INLINE = 0x10000000
_EXTENT_MAGIC = 0xF30A
_DEEPEST = 5
_UNWRITTEN = 0x8000
_LARGEST_BLOCK = 1 << 16
_LARGEST_FOLDER = 4 << 30
_XATTR_SYSTEM = 7
_DIRECT = 12

# Of the inode: mode, uid, size, mtime, gid, flags, and the upper halves of size, uid and gid.
_INODE = struct.Struct("<HHI8xI4xH6xI72xI8xHH")
_MTIME_EXTRA = struct.Struct("<I")
_MTIME_EXTRA_AT = 136
_OLD_INODE = 128
#: How many blocks of inode tables are kept. A folder's files mostly have neighbouring inodes.
_TABLE_BLOCKS = 64


class Ext(FileSystem):
    """ext2, ext3 and ext4, without bigalloc and meta_bg."""

    def __init__(self, volume: VolumeFile, name: str) -> None:
        super().__init__(volume, name)
        with self.guarded("its superblock"):
            self._check_features()
            self._fs = extfs.ExtFS(volume)
            superblock = self._fs.sb
            self._block = int(self._fs.block_size)
            self._table_block = lru_cache(_TABLE_BLOCKS)(self._read_block)
            if self._block > _LARGEST_BLOCK or not 128 <= superblock.s_inode_size <= self._block:
                raise ValueError("blocks or inodes of an impossible size")
            self.label = self._fs.volume_name
        incompat = superblock.s_feature_incompat
        self.kind = (
            "ext4"
            if incompat & (_EXTENTS | _64BIT)
            else "ext3"
            if superblock.s_feature_compat & 4
            else "ext2"
        )
        if incompat & _RECOVER:
            self.note = "it was in use: changes in its journal, which pitr does not replay, are missing"
            self.incomplete = True

    def _check_features(self) -> None:
        """Refuse a file system that the library would misread."""
        raw = self.volume.read_at(1024, 1024)
        incompat, ro_compat = struct.unpack_from("<II", raw, 96)
        descriptor = struct.unpack_from("<H", raw, 254)[0]
        unknown = incompat & ~_KNOWN
        if unknown or ro_compat & _BIGALLOC or (not incompat & _64BIT and descriptor not in (0, 32)):
            features = f"{unknown:#x}" if unknown else "bigalloc"
            raise FileSystemError(f"{self.name} has features that pitr does not support ({features})")

    def _root(self) -> Any:
        return self._fs.root

    def _look(self, handle: Any) -> Node:
        # The library needs ten times as long to parse an inode. It does so only for the files that are read.
        raw = self._raw_inode(handle.inum)
        mode, uid, size, mtime, gid, flags, size_high, uid_high, gid_high = _INODE.unpack_from(raw)
        extra = _MTIME_EXTRA.unpack_from(raw, _MTIME_EXTRA_AT)[0] if len(raw) > _OLD_INODE else 0
        kind = kind_of(mode)
        return Node(
            key=handle.inum,
            kind=kind,
            size=size | size_high << 32 if kind in (EntryKind.FILE, EntryKind.LINK) else 0,
            mode=mode & 0o7777,
            mtime_ns=_signed(mtime, (mtime + ((extra & 3) << 32)) * 10**9 + (extra >> 2)),
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            handle=handle,
            unreadable="it is encrypted" if flags & _FLAG_ENCRYPTED else None,
        )

    def _raw_inode(self, number: int) -> bytes:
        """Return the bytes of an inode. Neighbours are read at once."""
        group, index = divmod(number - 1, self._fs.sb.s_inodes_per_group)
        described = self._fs._read_group_desc(group)
        table = described.bg_inode_table_lo | getattr(described, "bg_inode_table_hi", 0) << 32
        size = self._fs.sb.s_inode_size
        block, at = divmod(index * size, self._block)
        raw = self._table_block(table + block)[at : at + size]
        if len(raw) < size:
            # Only a damaged file system has inodes that go over the end of a block.
            raw = self.volume.read_at((table + block) * self._block + at, size)
        return raw

    def _read_block(self, number: int) -> bytes:
        return self.volume.read_at(number * self._block, self._block)

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        if folder.unreadable:
            raise FileSystemError(f"cannot read a folder of {self.name}: {folder.unreadable}")
        for region in self._regions(folder.handle):
            at = 0
            while at + 8 <= len(region):
                number, length, name_length = struct.unpack_from("<IHB", region, at)
                # 65536 does not fit into the field.
                length = _LARGEST_BLOCK if length in (0, 0xFFFF) and self._block == _LARGEST_BLOCK else length
                if length < 8 or length % 4 or at + length > len(region) or name_length > length - 8:
                    raise ValueError("an entry longer than its block")
                if number:
                    name = region[at + 8 : at + 8 + name_length].decode(errors="surrogateescape")
                    yield name, self._fs.get_inode(number)
                at += length

    def _regions(self, handle: Any) -> Iterator[bytes]:
        """Yield the pieces of a folder that are lists of entries."""
        if handle.inode.i_flags & _FLAG_INLINE:
            data = self._inline(handle)
            # The inode number of the parent precedes the first entry.
            yield data[4:60]
            if len(data) > 60:
                yield data[60:]
            return
        if handle.size > _LARGEST_FOLDER:
            raise ValueError(f"a folder of {handle.size} bytes")
        content = self.runs(handle.size, self._places(handle))
        for start, length in content.data:
            for offset in range(start, start + length, self._block):
                yield content.read(offset, min(self._block, start + length - offset))

    def _target(self, link: Node) -> str:
        if not 0 < link.size <= LONGEST_TARGET:
            raise ValueError(f"a target of {link.size} bytes")
        inode = link.handle.inode
        if link.size < 60 and not inode.i_flags & _FLAG_INLINE:
            return bytes(inode.i_block)[: link.size].decode(errors="surrogateescape")
        content = self._content(link)
        data = b"".join(content.read(start, length) for start, length in content.data)
        return data.decode(errors="surrogateescape")

    def _content(self, file: Node) -> FileContent:
        if file.handle.inode.i_flags & _FLAG_INLINE:
            return of_bytes(self._inline(file.handle), file.size)
        return self.runs(file.size, self._places(file.handle))

    def _inline(self, handle: Any) -> bytes:
        """Return data stored in the inode: 60 bytes inside it, the rest in an extended attribute."""
        more = b"".join(
            bytes(attribute.value)
            for attribute in handle.xattr
            if attribute.entry.e_name_index == _XATTR_SYSTEM and bytes(attribute.entry.e_name) == b"data"
        )
        return bytes(handle.inode.i_block) + more

    def _places(self, handle: Any) -> Iterator[tuple[int, int, int]]:
        """Yield runs in bytes: offset in the file, length, offset in the volume."""
        raw = bytes(handle.inode.i_block)
        runs = (
            self._extents(raw, None)
            if handle.inode.i_flags & _FLAG_EXTENTS
            else self._pointers(raw, -(-handle.size // self._block))
        )
        for first, count, block in runs:
            yield first * self._block, count * self._block, block * self._block

    def _extents(self, node: bytes, depth: int | None) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, level = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or entries > (len(node) - 12) // 12:
            raise ValueError("an invalid node of the extent tree")
        if level > _DEEPEST if depth is None else level != depth:
            raise ValueError("an extent tree whose levels do not decrease")
        for at in range(12, 12 + 12 * entries, 12):
            if level == 0:
                first, count, high, low = struct.unpack_from("<IHHI", node, at)
                # A longer extent is allocated but unwritten: it reads as zero.
                if count <= _UNWRITTEN:
                    yield first, count, high << 32 | low
            else:
                _, low, high = struct.unpack_from("<IIH", node, at)
                child = self.volume.read_at((high << 32 | low) * self._block, self._block)
                yield from self._extents(child, level - 1)

    def _pointers(self, raw: bytes, blocks: int) -> Iterator[tuple[int, int, int]]:
        """Yield the runs of ext2 and ext3: twelve blocks, then trees of one, two and three levels."""
        pointers = struct.unpack("<15I", raw)
        yield from ((number, 1, block) for number, block in enumerate(pointers[:_DIRECT]) if block)
        first = _DIRECT
        for level, block in enumerate(pointers[_DIRECT:], 1):
            if first >= blocks:
                return
            yield from self._indirect(block, level, first, blocks)
            first += (self._block // 4) ** level

    def _indirect(self, block: int, level: int, first: int, blocks: int) -> Iterator[tuple[int, int, int]]:
        if block == 0:
            return
        step = (self._block // 4) ** (level - 1)
        table = struct.unpack(f"<{self._block // 4}I", self.volume.read_at(block * self._block, self._block))
        for number, child in enumerate(table):
            at = first + number * step
            if at >= blocks:
                return
            if level == 1:
                if child:
                    yield at, 1, child
            else:
                yield from self._indirect(child, level - 1, at, blocks)


def _signed(low: int, time_ns: int) -> int:
    """Return a time before 1970 correctly: the lower 32 bits are signed, but the library reads them unsigned."""
    return time_ns - (1 << 32) * 10**9 if low & 0x80000000 else time_ns
