# SPDX-License-Identifier: GPL-2.0-or-later
"""Btrfs on one device, read by dissect.btrfs. Paths start in the default subvolume."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from dissect.btrfs import btrfs

from pitr.errors import FileSystemError
from pitr.guest.filesystem.base import LONGEST_TARGET, EntryKind, FileContent, FileSystem, Node, kind_of
from pitr.guest.filesystem.volume import VolumeFile

#: The kernel compresses at most 128 KiB at once.
_LARGEST_COMPRESSED = 1 << 18
_HOLE = (0, 0)
_SUPERBLOCK_AT = 0x10000
#: incompat_flags: all up to raid1c34, and simple_quota; without zoned, extent-tree-v2 and raid-stripe-tree.
_KNOWN = 0xFFF | 0x10000


class Btrfs(FileSystem):
    """Btrfs. Its subvolumes appear as folders. Compression: zlib, lzo and zstd."""

    exclusive = False  # reflinks and snapshots

    def __init__(self, volume: VolumeFile, name: str) -> None:
        super().__init__(volume, name)
        with self.guarded("its superblock"):
            self._check_superblock()
            self._fs = btrfs.Btrfs(volume)
            self.label = self._fs.label
            if self._fs.sb.log_root:
                self.note = "it was in use: changes of the last seconds may be missing"
        self.kind = "btrfs"

    def _check_superblock(self) -> None:
        """Refuse a file system that the library would misread or cannot read."""
        raw = self.volume.read_at(_SUPERBLOCK_AT, 512)
        if raw[0x40:0x48] != b"_BHRfS_M":
            raise ValueError("an invalid superblock")
        (devices,) = struct.unpack_from("<Q", raw, 0x88)
        (features,) = struct.unpack_from("<Q", raw, 0xBC)
        if devices != 1:
            raise FileSystemError(f"{self.name} spans {devices} devices; pitr reads only one")
        if features & ~_KNOWN:
            raise FileSystemError(
                f"{self.name} has features that pitr does not support ({features & ~_KNOWN:#x})"
            )

    def _root(self) -> Any:
        return self._fs.root

    def _look(self, handle: Any) -> Node:
        kind = kind_of(handle.mode)
        return Node(
            key=(handle.subvolume.objectid, handle.inum),
            kind=kind,
            size=handle.size if kind in (EntryKind.FILE, EntryKind.LINK) else 0,
            mode=handle.mode & 0o7777,
            mtime_ns=handle.mtime_ns,
            uid=handle.uid,
            gid=handle.gid,
            handle=handle,
        )

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        yield from folder.handle.iterdir()

    def _target(self, link: Node) -> str:
        if not 0 < link.size <= LONGEST_TARGET:
            raise ValueError(f"a target of {link.size} bytes")
        target: str = link.handle.link
        return target

    def _content(self, file: Node) -> FileContent:
        if not file.size:
            return FileContent(0, [], lambda offset, length: b"")
        opened = file.handle.open()
        extents = getattr(opened, "extents", None)
        data: list[tuple[int, int]] = []
        if extents is None:
            data.append((0, file.size))
        else:
            start = 0
            for extent in extents:
                if extent.length <= 0 or start > file.size:
                    raise ValueError("overlapping extents")
                if extent.compression and extent.disk_length > _LARGEST_COMPRESSED:
                    raise ValueError(f"a compressed extent of {extent.disk_length} bytes")
                length = min(extent.length, file.size - start)
                if (extent.disk_offset, extent.disk_length) != _HOLE and length:
                    data.append((start, length))
                start += extent.length

        def read(offset: int, length: int) -> bytes:
            opened.seek(offset)
            data: bytes = opened.read(length)
            return data

        return FileContent(file.size, data, read)
