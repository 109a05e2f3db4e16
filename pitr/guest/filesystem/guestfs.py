# SPDX-License-Identifier: GPL-2.0-or-later
"""Any file system that the Linux kernel reads, through libguestfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pitr.errors import FileSystemError
from pitr.guest.filesystem.base import (
    LONGEST_TARGET,
    EntryKind,
    FileContent,
    FileSystem,
    FolderEntry,
    Node,
    kind_of,
)
from pitr.guest.filesystem.volume import VolumeFile
from pitr.guest.guestfish import Guestfish

_SECOND_NS: Final = 10**9


class Guestfs(FileSystem):
    """A file system that guestfish has mounted on `folder`. A handle is a path there, in bytes.

    `scratch` is a file for the bytes that guestfish downloads.
    """

    exclusive = False

    def __init__(self, shell: Guestfish, folder: str, kind: str, name: str, scratch: Path) -> None:
        super().__init__(VolumeFile([]), name)
        self._shell = shell
        self._folder = folder.encode()
        self._scratch = scratch
        self.kind = kind

    def entries(self, folder: Node) -> Iterator[FolderEntry]:
        with self.guarded("a folder"):
            handles = list(self._list(folder))
            answers = self._shell.run_all([("lstatns", handle) for _, handle in handles])
        for (name, handle), answer in zip(handles, answers, strict=True):
            if isinstance(answer, FileSystemError):
                yield FolderEntry(name, None, answer.message)
                continue
            with self.guarded("an entry"):
                node = _node(handle, answer)
            yield FolderEntry(name, node)

    def child(self, folder: Node, name: str) -> Node | None:
        with self.guarded("a folder"):
            path = _inside(folder.handle, name.encode(errors="surrogateescape"))
            # lstatns reports a missing file as an error; "exists" would follow a link.
            found = any(entry == name for entry, _ in self._list(folder))
            return self._look(path) if found else None

    def _root(self) -> Any:
        return self._folder

    def _look(self, handle: Any) -> Node:
        return _node(handle, self._shell.run("lstatns", handle))

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        self._shell.run("ls0", folder.handle, str(self._scratch))
        for name in self._scratch.read_bytes().split(b"\0"):
            if name:
                yield name.decode(errors="surrogateescape"), _inside(folder.handle, name)

    def _target(self, link: Node) -> str:
        if not 0 < link.size <= LONGEST_TARGET:
            raise ValueError(f"a target of {link.size} bytes")
        return self._shell.run("readlink", link.handle)[:-1].decode(errors="surrogateescape")

    def _content(self, file: Node) -> FileContent:
        def read(offset: int, length: int) -> bytes:
            self._shell.run("download-offset", file.handle, str(self._scratch), str(offset), str(length))
            return self._scratch.read_bytes()

        return FileContent(file.size, [(0, file.size)] if file.size else [], read)


def _inside(folder: bytes, name: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + name


def _node(handle: bytes, printed: bytes) -> Node:
    fields = dict(line.split(b": ", 1) for line in printed.splitlines() if b": " in line)
    values = {name.decode(): int(value) for name, value in fields.items()}
    kind = kind_of(values["st_mode"])
    return Node(
        key=(values["st_dev"], values["st_ino"]),
        kind=kind,
        size=values["st_size"] if kind in (EntryKind.FILE, EntryKind.LINK) else 0,
        mode=values["st_mode"] & 0o7777,
        mtime_ns=values["st_mtime_sec"] * _SECOND_NS + values["st_mtime_nsec"],
        uid=values["st_uid"],
        gid=values["st_gid"],
        handle=handle,
    )
