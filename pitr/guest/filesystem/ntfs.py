# SPDX-License-Identifier: GPL-2.0-or-later
"""NTFS, read by dissect.ntfs.

pitr walks folders as trees: the library lists pieces that are no longer in use, and skips damaged ones. Bytes behind
the valid length of a file, which the guest never wrote, read as zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from dissect.ntfs import ntfs
from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE
from dissect.ntfs.util import segment_reference

from pitr.guest.filesystem import ntfs_links
from pitr.guest.filesystem.base import EntryKind, FileContent, FileSystem, Node, of_bytes
from pitr.guest.filesystem.volume import VolumeFile

_DATA = ATTRIBUTE_TYPE_CODE.DATA
_REPARSE = ATTRIBUTE_TYPE_CODE.REPARSE_POINT
_STANDARD = ATTRIBUTE_TYPE_CODE.STANDARD_INFORMATION
_VOLUME_INFORMATION = 0x70
_LOG_FILE = 2
_VOLUME_FILE = 3
#: $LogFile begins with two restart pages, of which one is current.
_LOG_PAGE = 4096
_NO_CLIENT = 0xFFFF
_LOG_IS_CLEAN = 0x0002
#: Lower numbers belong to the file system's own files.
_FIRST_USER_FILE = 16
_ROOT = 5
_COMPRESSED = 0x00FF
_ENCRYPTED = 0x4000
_DOS_NAME = 2
#: The attribute of system files, in $STANDARD_INFORMATION.
_SYSTEM = 0x4
_DEEPEST = 64
_LARGEST_INDEX_BUFFER = 1 << 16


class Ntfs(FileSystem):
    """NTFS with compression. Alternate streams are ignored."""

    case_sensitive = False

    def __init__(self, volume: VolumeFile, name: str) -> None:
        super().__init__(volume, name)
        with self.guarded("its boot sector or master file table"):
            self._fs = ntfs.NTFS(volume)
            if self._fs._record_size > 1 << 16 or not 512 <= self._fs.cluster_size <= 1 << 21:
                raise ValueError("records or clusters of an impossible size")
            self.label = (self._fs.volume_name or "").strip("\0")
            self._note_when_in_use()
        self.kind = "ntfs"

    def _note_when_in_use(self) -> None:
        journal = self._fs.mft.get(_LOG_FILE).attributes.find("", _DATA).open().read(2 * _LOG_PAGE)
        if _holds_changes(journal):
            self.note = "it was in use: changes in its journal, which pitr does not replay, are missing"
            self.incomplete = True
            return
        for attribute in self._fs.mft.get(_VOLUME_FILE).attributes[_VOLUME_INFORMATION]:
            if attribute.header.open().read(12)[10] & 1:
                self.note = "it was in use: the last changes may be missing"

    def _root(self) -> Any:
        return self._fs.mft.get(_ROOT)

    def _look(self, handle: Any) -> Node:
        folder = handle.is_dir()
        kind, unreadable, size = EntryKind.FOLDER if folder else EntryKind.FILE, None, 0
        for attribute in handle.attributes[_REPARSE]:
            tag = int(attribute.tag)
            if tag in ntfs_links.TAGS:
                kind = EntryKind.LINK
            else:
                # Compressed by the system, deduplicated or in a cloud: the bytes are not in the data attribute.
                unreadable = f"Windows stores its bytes in an unsupported form (reparse tag {tag:#x})"
        if kind is EntryKind.FILE:
            streams = handle.attributes.find("", _DATA)
            if streams:
                size = streams.size()
                if streams[0].header.flags & _ENCRYPTED:
                    unreadable = "it is encrypted"
        (standard,) = handle.attributes[_STANDARD][:1]
        system = kind is EntryKind.FILE and unreadable is None and int(standard.file_attributes) & _SYSTEM
        if system and size <= ntfs_links.INTERIX_LONGEST and self._is_interix_link(handle):
            kind, size = EntryKind.LINK, 0
        return Node(
            key=handle.segment,
            kind=kind,
            size=size,
            mode=None,
            mtime_ns=standard.last_modification_time_ns,
            uid=None,
            gid=None,
            handle=handle,
            unreadable=unreadable,
        )

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        index = folder.handle.index("$I30")
        if not 512 <= index.root.bytes_per_index_buffer <= _LARGEST_INDEX_BUFFER:
            raise ValueError("an index buffer of an impossible size")
        seen: set[int] = set()
        yield from self._walk(index, index.root.entries(), seen, 0)

    def _walk(
        self, index: Any, entries: Iterator[Any], seen: set[int], depth: int
    ) -> Iterator[tuple[str, Any]]:
        if depth > _DEEPEST:
            raise ValueError("a folder index that is too deep")
        for entry in entries:
            if entry.is_node:
                child = int(entry.node_vcn)
                if child in seen:
                    raise ValueError("a circular folder index")
                seen.add(child)
                yield from self._walk(index, index.index_buffer(child).entries(), seen, depth + 1)
            if entry.is_end:
                return
            segment = segment_reference(entry.header.FileReference)
            if entry.attribute.flags != _DOS_NAME and segment >= _FIRST_USER_FILE:
                yield entry.attribute.file_name, _Lazy(self._fs.mft, segment)

    def _target(self, link: Node) -> str:
        for attribute in link.handle.attributes[_REPARSE]:
            return ntfs_links.reparse_target(attribute)
        stream = link.handle.attributes.find("", _DATA)
        return ntfs_links.interix_target(stream.open().read(ntfs_links.INTERIX_LONGEST))

    def _is_interix_link(self, handle: Any) -> bool:
        streams = handle.attributes.find("", _DATA)
        magic = ntfs_links.INTERIX_MAGIC
        return bool(streams) and streams.open().read(len(magic)) == magic

    def _content(self, file: Node) -> FileContent:
        streams = file.handle.attributes.find("", _DATA)
        if not streams:
            return FileContent(0, [], lambda offset, length: b"")
        if streams.header.resident:
            return of_bytes(streams.header.open().read(file.size), file.size)
        parts = sorted(streams, key=lambda part: part.header.lowest_vcn)
        form = parts[0].header.header.Form.Nonresident
        valid = min(form.ValidDataLength, file.size)
        if parts[0].header.flags & _COMPRESSED and parts[0].header.compression_unit:
            opened = streams.open()

            def read(offset: int, length: int) -> bytes:
                opened.seek(offset)
                data: bytes = opened.read(length)
                return data

            return FileContent(file.size, [(0, valid)] if valid else [], read)
        cluster_size = self._fs.cluster_size
        runs: list[tuple[int, int, int]] = []
        at = 0
        for part in parts:
            if part.header.lowest_vcn != at:
                raise ValueError("an incomplete list of clusters")
            for cluster, count in part.header.dataruns():
                if count <= 0:
                    raise ValueError("a run without clusters")
                start = at * cluster_size
                if cluster is not None and start < valid:
                    length = min(count * cluster_size, valid - start)
                    runs.append((start, length, cluster * cluster_size))
                at += count
        if at * cluster_size < file.size:
            raise ValueError("a list of clusters that is too short")
        return self.runs(file.size, runs)


def _holds_changes(journal: bytes) -> bool:
    """Tell whether $LogFile, of which these are the first bytes, has changes to replay.

    Source: ntfs_is_logfile_clean in libntfs-3g/logfile.c.
    """
    newest = None
    for page in (journal[:_LOG_PAGE], journal[_LOG_PAGE:]):
        if page[:4] != b"RSTR":
            continue
        (at,) = struct.unpack_from("<H", page, 24)
        number, _, _, in_use, flags = struct.unpack_from("<QHHHH", page, at)
        if newest is None or number > newest[0]:
            newest = (number, in_use != _NO_CLIENT and not flags & _LOG_IS_CLEAN)
    # Without a restart page the journal is empty: mkntfs and Windows fill it with 0xFF.
    return newest is not None and bool(newest[1])


class _Lazy:
    """A record of the master file table, read on first use, so that a damaged record does not break a list."""

    def __init__(self, table: Any, segment: int) -> None:
        self._table = table
        self._segment = segment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table.get(self._segment), name)
