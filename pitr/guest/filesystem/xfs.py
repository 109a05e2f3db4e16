# SPDX-License-Identifier: GPL-2.0-or-later
"""XFS, read by dissect.xfs.

pitr maps the places of data: the library returns the old content of blocks that are allocated but were never written,
and skips damaged blocks of a folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from dissect.xfs import xfs

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
from pitr.guest.filesystem.xfs_log import holds_changes

#: Blocks with the entries of a folder: a single block or one of several, before and since version 5.
_FOLDER_MAGICS = (b"XD2B", b"XD2D", b"XDB3", b"XDD3")
#: The index of a folder starts at this offset.
_FOLDER_INDEX_AT = 32 << 30
_VERSION_WITH_FEATURES = 5
#: sb_features_incompat: ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchrange, parent.
_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
# Of the inode: magic number, mode, version, uid, gid, mtime, size and flags.
_INODE = struct.Struct(">HHB3xII24xQ8xQ26xH")
_FLAGS2 = struct.Struct(">Q")
_FLAGS2_AT = 120
_BIGTIME = 1 << 3
_VERSION_WITH_FLAGS2 = 3
_MAGIC = 0x494E
_LOCAL = 1
_REALTIME = 1


class Xfs(FileSystem):
    """XFS of versions 4 and 5 without a realtime device."""

    exclusive = False  # reflinks

    def __init__(self, volume: VolumeFile, name: str) -> None:
        super().__init__(volume, name)
        with self.guarded("its superblock"):
            self._fs = xfs.XFS(volume)
            superblock = self._fs.sb
            self._block = int(superblock.sb_blocksize)
            self.label = self._fs.name
            if not 512 <= superblock.sb_blocksize <= 1 << 16 or superblock.sb_inodesize > 1 << 12:
                raise ValueError("blocks or inodes of an impossible size")
        unknown = (
            superblock.sb_features_incompat & ~_KNOWN if self._fs.version == _VERSION_WITH_FEATURES else 0
        )
        if unknown:
            raise FileSystemError(f"{self.name} has features that pitr does not support ({unknown:#x})")
        if superblock.sb_dirblklog:
            raise FileSystemError(
                f"{self.name} has folders in blocks of {self._block << superblock.sb_dirblklog} bytes, "
                "which pitr does not support"
            )
        self.kind = "xfs"
        with self.guarded("its log"):
            if self._log_holds_changes():
                self.note = (
                    "its log holds changes that pitr does not read: files created, renamed or removed in the last "
                    "minutes may be missing or old"
                )
                self.incomplete = True

    def _log_holds_changes(self) -> bool:
        superblock = self._fs.sb
        if not superblock.sb_logstart:
            return True  # The log is on another device.
        group, inside = divmod(superblock.sb_logstart, 1 << superblock.sb_agblklog)
        start = (group * superblock.sb_agblocks + inside) * self._block

        def read(offset: int, length: int) -> bytes:
            return self.volume.read_at(start + offset, length)

        return holds_changes(read, superblock.sb_logblocks * self._block)

    def _root(self) -> Any:
        return self._fs.root

    def _look(self, handle: Any) -> Node:
        # The library parses whole inodes, which takes long. It does so only for the files that are read.
        raw = self._raw_inode(handle)
        magic, mode, version, uid, gid, mtime, size, flags = _INODE.unpack_from(raw)
        if magic != _MAGIC:
            raise ValueError("an inode without its magic number")
        kind = kind_of(mode)
        is_on_realtime = flags & _REALTIME and kind is EntryKind.FILE
        return Node(
            key=handle.inum,
            kind=kind,
            size=size if kind in (EntryKind.FILE, EntryKind.LINK) else 0,
            mode=mode & 0o7777,
            mtime_ns=_mtime_ns(mtime, version, raw),
            uid=uid,
            gid=gid,
            handle=handle,
            unreadable="it is stored on a realtime device" if is_on_realtime else None,
        )

    def _raw_inode(self, handle: Any) -> bytes:
        size = self._fs.sb.sb_inodesize
        handle.ag.fh.seek(handle.relative_inum * size)
        raw: bytes = handle.ag.fh.read(size)
        return raw

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        handle = folder.handle
        if handle.inode.di_format != _LOCAL:
            if handle.size > _FOLDER_INDEX_AT:
                raise ValueError(f"a folder of {handle.size} bytes")
            content = self.runs(handle.size, self._places(handle))
            for start, length in content.data:
                for offset in range(start, start + length, self._block):
                    if content.read(offset, 4) not in _FOLDER_MAGICS:
                        raise ValueError("an invalid block of a folder")
        for entry in handle.iterdir():
            yield entry.filename, entry

    def _target(self, link: Node) -> str:
        if not 0 < link.size <= LONGEST_TARGET:
            raise ValueError(f"a target of {link.size} bytes")
        target: str = link.handle.link
        if len(target.encode(errors="surrogateescape")) != link.size:
            raise ValueError("a target of a different length than the link")
        return target

    def _content(self, file: Node) -> FileContent:
        if file.handle.inode.di_format == _LOCAL:
            return of_bytes(file.handle.datafork().read(file.size), file.size)
        return self.runs(file.size, self._places(file.handle))

    def _places(self, handle: Any) -> Iterator[tuple[int, int, int]]:
        superblock = self._fs.sb
        for first, block, count, unwritten in handle._iter_blocks():
            if unwritten:
                continue
            group, inside = divmod(block, 1 << superblock.sb_agblklog)
            at = group * superblock.sb_agblocks + inside
            yield first * self._block, count * self._block, at * self._block


def _mtime_ns(stored: int, version: int, raw: bytes) -> int:
    """Return a time in nanoseconds since 1970: two numbers, or one that counts from 1901 on."""
    if version >= _VERSION_WITH_FLAGS2 and _FLAGS2.unpack_from(raw, _FLAGS2_AT)[0] & _BIGTIME:
        return int(stored - (10**9 << 31))
    # The library takes a time before 1970 for one after 2038.
    seconds = stored >> 32
    return (seconds - ((seconds >> 31) << 32)) * 10**9 + (stored & 0xFFFFFFFF)
