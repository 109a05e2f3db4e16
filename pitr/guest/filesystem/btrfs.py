# SPDX-License-Identifier: GPL-2.0-or-later
"""Btrfs on one device, read by dissect.btrfs. Paths start in the default subvolume."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from dissect.btrfs import btrfs
from dissect.btrfs.c_btrfs import c_btrfs

from pitr.errors import FileSystemError
from pitr.guest.filesystem.base import LONGEST_TARGET, EntryKind, FileContent, FileSystem, Node, kind_of
from pitr.guest.filesystem.volume import VolumeFile

#: The kernel compresses at most 128 KiB at once.
_LARGEST_COMPRESSED = 1 << 18
_HOLE = (0, 0)
#: The mode that the kernel gives (new_simple_dir in fs/btrfs/inode.c).
_EMPTY_FOLDER_MODE = 0o755
_SUPERBLOCK_AT = 0x10000
#: incompat_flags: all up to raid1c34, and simple_quota; without zoned, extent-tree-v2 and raid-stripe-tree.
_KNOWN = 0xFFF | 0x10000


class _EmptyFolder(NamedTuple):
    """The entry of a nested subvolume in a snapshot of the outer one: subvolume, folder and name."""

    subvolume: int
    folder: int
    name: bytes
    mtime_ns: int


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
                self.note = "it was in use: changes of the last seconds, which its log holds, are missing"
                self.incomplete = True
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
        if isinstance(handle, _EmptyFolder):
            return Node(
                key=handle,
                kind=EntryKind.FOLDER,
                size=0,
                mode=_EMPTY_FOLDER_MODE,
                mtime_ns=handle.mtime_ns,
                uid=0,
                gid=0,
                handle=handle,
            )
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
        handle = folder.handle
        if isinstance(handle, _EmptyFolder):
            return
        # From index 2: 0 and 1 are for "." and "..".
        items = handle.subvolume.tree.cursor().iter(
            handle.inum, c_btrfs.BTRFS_DIR_INDEX_KEY, 2, ignore_offset=True
        )
        for _, data in items:
            item = c_btrfs.btrfs_dir_item(data)
            name = bytes(item.name)
            yield name.decode(errors="surrogateescape"), self._entry(handle, name, item)

    def _entry(self, folder: Any, name: bytes, item: Any) -> Any:
        """Return the handle of an entry. A subvolume is there only where it was created.

        A snapshot copies the entry of a nested subvolume, but not the reference that the root tree has to it. The
        kernel shows such an entry as an empty folder (fixup_tree_root_location in fs/btrfs/inode.c).
        """
        number = item.location.objectid
        if item.location.type == c_btrfs.BTRFS_INODE_ITEM_KEY:
            return folder.subvolume.inode(number, item.type, folder)
        if item.location.type != c_btrfs.BTRFS_ROOT_ITEM_KEY:
            raise ValueError("an entry of a folder of an unknown type")
        if self._is_nested(folder, name, number):
            return self._fs.open_subvolume(number, folder).root
        return _EmptyFolder(folder.subvolume.objectid, folder.inum, name, folder.mtime_ns)

    def _is_nested(self, folder: Any, name: bytes, number: int) -> bool:
        try:
            _, data = self._fs._root_tree.find(folder.subvolume.objectid, c_btrfs.BTRFS_ROOT_REF_KEY, number)
        except KeyError:
            return False
        reference = c_btrfs.btrfs_root_ref(data)
        return bool(reference.dirid == folder.inum and bytes(reference.name) == name)

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
