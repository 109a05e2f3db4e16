# SPDX-License-Identifier: GPL-2.0-or-later
"""The operating system under a repository, made to fail at its n-th call.

Counted are the calls of `os` that change something below one folder, and the statements that SQLite is given. A
process that dies leaves what it has written; a power failure takes what was not synced, all or a part of it.
"""

# ruff: noqa: PTH100, PTH113, PTH115, PTH118, PTH120, PTH202
from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sqlite3
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pitr.errors import PitrError
from pitr.repository.store import naming

Fault = Literal["kill", "power", "power in part", "ENOSPC", "EIO"]
#: What the file system has to name files with that never replaces: hard links, only a rename with that flag, neither.
Names = Literal["link", "renameat2", "lock"]

DIED, REFUSED, BROKEN, ENDURED, NOT_POSSIBLE, NOT_REACHED = 99, 98, 97, 96, 95, 0
_FULL = {"open", "write", "fsync", "link", "mkdir", "rename", "replace", "sqlite"}
#: The calls that give an object its name on a file system without hard links.
_NAMING = {"fsync", "mkdir", "rename", "unlink"}


def run(
    job: Callable[[], Any], folder: Path, fault: Fault, at: int, names: Names = "link"
) -> tuple[int, str]:
    """Run `job` in a child whose call number `at` below `folder` fails.

    With other `names` than links, as on a file system without them, only calls that belong to naming are counted.

    Return DIED, REFUSED (the job raised an error of pitr's), BROKEN (any other), ENDURED (the job went on in spite of
    the fault), NOT_POSSIBLE (no such fault at this call) or NOT_REACHED; and what the child said.
    """
    said = folder.with_name(folder.name + ".said")
    said.touch()
    child = os.fork()
    if child == 0:
        code = BROKEN
        system = FaultyOs(folder, fault, at, names)
        try:
            system.install()
            job()
            code = ENDURED if system.count >= at else NOT_REACHED
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to know
            code = REFUSED if isinstance(error, PitrError) else BROKEN
            said.write_text("".join(traceback.format_exception(error)))
        finally:
            # Not while another thread is dying: what this one says then is what it saw of that.
            with system.counting:
                os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text()


class FaultyOs:
    """The patched functions, and what a power failure would take."""

    def __init__(self, folder: Path, fault: Fault, at: int, names: Names = "link") -> None:
        self._names = names
        self._folder = str(folder)
        self._graves = folder.with_name(folder.name + ".graves")
        self._buried = itertools.count()
        self._fault = fault
        self._at = at
        self.count = 0
        self.counting = threading.RLock()
        self._unsynced: set[int] = set()
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        """Patch this process; it is never put back."""
        self._graves.mkdir(exist_ok=True)
        for name in (
            "open",
            "write",
            "pwrite",
            "fsync",
            "link",
            "rename",
            "replace",
            "unlink",
            "mkdir",
            "rmdir",
        ):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        self._real["rename_no_replace"] = naming.rename_no_replace
        naming.WAYS = tuple(
            self._rename_no_replace if way is naming.rename_no_replace else way for way in naming.WAYS
        )
        layer = self

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> Any:
                layer._call("sqlite")
                return super().execute(*arguments)

            def executemany(self, *arguments: Any) -> Any:
                layer._call("sqlite")
                return super().executemany(*arguments)

        connect = sqlite3.connect
        sqlite3.connect = lambda *given, **named: connect(*given, **{"factory": Connection, **named})

    # The patched functions

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = self._name(path, dir_fd)
        creates = name is not None and flags & os.O_CREAT and not os.path.lexists(name)
        if creates:
            self._call("open")
        handle: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if creates and name is not None:
            self._changed(name, lambda: self._real["unlink"](name))
        return handle

    def _write(self, handle: int, data: Any) -> int:
        if self._of(handle) is None:
            return int(self._real["write"](handle, data))
        self._call("write", torn=lambda: self._real["write"](handle, bytes(data)[: len(data) // 2]))
        self._unsynced.add(os.fstat(handle).st_ino)
        return int(self._real["write"](handle, data))

    def _pwrite(self, handle: int, data: Any, offset: int) -> int:
        if self._of(handle) is not None:
            self._call("write")
        return int(self._real["pwrite"](handle, data, offset))

    def _fsync(self, handle: int) -> None:
        name = self._of(handle)
        if name is None:
            return
        self._call("fsync")
        self._unsynced.discard(os.fstat(handle).st_ino)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != name]

    def _link(self, source: Any, target: Any, **named: Any) -> None:
        name = self._name(target, named.get("dst_dir_fd"))
        if name is not None and self._names != "link":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if name is not None:
            self._call("link")
        self._real["link"](source, target, **named)
        if name is not None:
            self._changed(name, lambda: self._real["unlink"](name))

    def _rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        def move() -> None:
            self._real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        self._renamed(self._name(source, src_dir_fd), self._name(target, dst_dir_fd), move)

    def _rename_no_replace(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        def move() -> None:
            self._real["rename_no_replace"](source, source_folder, target, target_folder)

        if self._names == "lock":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._renamed(self._name(source, source_folder), self._name(target, target_folder), move)

    def _renamed(self, source: str | None, target: str | None, move: Callable[[], None]) -> None:
        """Two changes, each of which its own folder has to be synced for: not every file system has a journal."""
        if source is None or target is None:
            move()
            return
        self._call("rename")
        grave = self._bury(source)
        replaced = self._bury(target)
        move()
        if grave is not None:
            self._changed(source, lambda: self._real["link"](grave, source))

        def undo() -> None:
            self._real["unlink"](target)
            if replaced is not None:
                self._real["link"](replaced, target)

        self._changed(target, undo)

    def _replace(self, source: Any, target: Any) -> None:
        name = self._name(target)
        if name is None:
            self._real["replace"](source, target)
            return
        self._call("replace")
        grave = self._bury(name)
        self._real["replace"](source, target)

        def undo() -> None:
            self._real["replace"](target, source)
            if grave is not None:
                self._real["link"](grave, target)

        self._changed(name, undo)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        name = self._name(path, dir_fd)
        if name is None or not os.path.lexists(name):
            self._real["unlink"](path, dir_fd=dir_fd)
            return
        self._call("unlink")
        grave = self._bury(name)
        self._real["unlink"](path, dir_fd=dir_fd)
        if grave is not None:
            self._changed(name, lambda: self._real["link"](grave, name))

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        name = self._name(path, dir_fd)
        if name is not None and not os.path.lexists(name):
            self._call("mkdir")
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if name is not None:
            self._changed(name, lambda: shutil.rmtree(name, ignore_errors=True))

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        if self._name(path, dir_fd) is not None:
            self._call("rmdir")
        self._real["rmdir"](path, dir_fd=dir_fd)

    # Failing

    def _call(self, kind: str, torn: Callable[[], Any] | None = None) -> None:
        if self._names != "link" and kind not in _NAMING:
            return
        # Workers count together, and none goes on while the power is failing.
        with self.counting:
            self.count += 1
            if self.count != self._at:
                return
            if self._fault == "ENOSPC" and kind not in _FULL:
                os._exit(NOT_POSSIBLE)
            if self._fault in ("ENOSPC", "EIO"):
                if kind == "sqlite":
                    text = "database or disk is full" if self._fault == "ENOSPC" else "disk I/O error"
                    raise sqlite3.OperationalError(text)
                code = getattr(errno, self._fault)
                raise OSError(code, os.strerror(code))
            if torn is not None:
                torn()
            if self._fault != "kill":
                self._lose_power()
            os._exit(DIED)

    def _lose_power(self) -> None:
        chance = random.Random(self._at)
        part = self._fault == "power in part"
        for _, undo in reversed(self._undo):
            if not part or chance.random() < 0.5:
                try:
                    undo()
                except OSError:
                    # What it would undo lies in a folder that is gone, or was undone otherwise.
                    continue
        for root, _, names in os.walk(self._folder):
            for name in names:
                path = os.path.join(root, name)
                if os.lstat(path).st_ino in self._unsynced:
                    os.truncate(path, os.path.getsize(path) // 2 if part else 0)

    def _changed(self, name: str, undo: Callable[[], None]) -> None:
        self._undo.append((os.path.dirname(name), undo))

    def _bury(self, name: str) -> str | None:
        """Keep what a name stands for, so that it can come back."""
        if not os.path.isfile(name):
            return None
        grave = str(self._graves / str(next(self._buried)))
        self._real["link"](name, grave)
        return grave

    def _name(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path, if it is below the folder."""
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if dir_fd is not None:
            name = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), name)
        name = os.path.abspath(name)
        return name if name.startswith(self._folder + os.sep) else None

    def _of(self, handle: int) -> str | None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        inside = name == self._folder or name.startswith(self._folder + os.sep)
        return name if inside else None
