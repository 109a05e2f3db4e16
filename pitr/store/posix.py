# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in a folder of a POSIX file system.

An object is written to a scratch file, synced, renamed to its name, and its folder is synced: after a crash it is
there whole or not at all. Files are 0600 and folders 0700, whatever the umask says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pitr.closing import Closes
from pitr.errors import RepositoryError
from pitr.store.base import ObjectExists, ObjectMissing, check_name, is_name
from pitr.store.scratch import Scratch

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


@contextmanager
def _io_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = ""
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            advice = "Free some space (see 'pitr prune') and run the command again."
        elif error.errno == 30:  # EROFS
            advice = "The repository's file system is read-only; only reading commands work on it."
        raise RepositoryError(f"{what}: {error.strerror or error}", advice) from error


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PosixStore:
    """A store in `folder`, which must exist. The caller closes it, which removes its scratch files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scratch = Scratch(folder / "tmp")

    def close(self) -> None:
        self._scratch.close()

    def new(self, name: str) -> _NewFile:
        target = self._path(name)
        with _io_errors(f"cannot write {name}"):
            return _NewFile(self, name, target, self._scratch.file())

    def create(self, name: str, data: bytes) -> None:
        with self.new(name) as new:
            new.write(data)
            new.commit()

    def open(self, name: str) -> _OpenFile:
        with _io_errors(f"cannot read {name}"):
            try:
                # A repository holds no symbolic links: one would lead reads out of it.
                # Nor does it hold pipes: without O_NONBLOCK, opening one would wait for its writer.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                handle = os.open(self._path(name), flags)
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectMissing(name) from None
            return _OpenFile(name, handle)

    def read(self, name: str, *, limit: int) -> bytes:
        with self.open(name) as file:
            if file.size > limit:
                raise RepositoryError(
                    f"{name} is {file.size} bytes long, more than the {limit} that it may be"
                )
            return file.read_at(0, file.size)

    def size(self, name: str) -> int:
        return self._status(name).st_size

    def written(self, name: str) -> datetime:
        return datetime.fromtimestamp(self._status(name).st_mtime, UTC)

    def _status(self, name: str) -> os.stat_result:
        with _io_errors(f"cannot read {name}"):
            try:
                status = os.lstat(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectMissing(name) from None
        if not stat.S_ISREG(status.st_mode):
            raise RepositoryError(f"{name} is not a regular file")
        return status

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        check_name(prefix)
        with _io_errors(f"cannot list {prefix}"):
            yield from self._walk(prefix, besides)

    def _walk(self, folder: str, besides: Container[str]) -> Iterator[str]:
        try:
            entries = os.scandir(self.folder / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                # What can be no object's name is no object: an editor's or NFS's hidden file, a copy "x (1)".
                if name in besides or not is_name(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(name, besides)
                else:
                    yield name

    def folders(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        with _io_errors(f"cannot list {prefix}"):
            try:
                entries = os.scandir(self.folder / prefix)
            except FileNotFoundError:
                return
            with entries:
                for entry in entries:
                    if is_name(f"{prefix}/{entry.name}") and entry.is_dir(follow_symlinks=False):
                        yield entry.name

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _io_errors(f"cannot delete {name}"):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            sync_folder(path.parent)

    def local_file(self, name: str) -> Path:
        self.size(name)
        return self._path(name)

    def scratch_file(self) -> Path:
        """A path for a temporary file on this store's file system; it is removed with the store's scratch."""
        with _io_errors("cannot write temporary files"):
            return self._scratch.file()

    def drop_scratch(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / check_name(name)

    def make_folders(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, durably."""
        if folder.is_dir():
            return
        self.make_folders(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=_FOLDER_MODE)
            folder.chmod(_FOLDER_MODE)  # a strict umask may have taken the owner's own rights away
            sync_folder(folder.parent)


class _NewFile:
    def __init__(self, store: PosixStore, name: str, target: Path, scratch: Path) -> None:
        self._store = store
        self._name = name
        self._target = target
        self._scratch = scratch
        self._handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        os.fchmod(self._handle, _FILE_MODE)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with _io_errors(f"cannot write {self._name}"):
            while view:
                view = view[os.write(self._handle, view) :]

    def commit(self) -> None:
        with _io_errors(f"cannot write {self._name}"):
            os.fsync(self._handle)
            self._store.make_folders(self._target.parent)
            try:
                # A link, unlike a rename, never replaces what has the name already.
                os.link(self._scratch, self._target)
            except FileExistsError:
                raise ObjectExists(self._name) from None
            sync_folder(self._target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        os.close(self._handle)
        self._store.drop_scratch(self._scratch)


class _OpenFile(Closes):
    def __init__(self, name: str, handle: int) -> None:
        self._name = name
        self._handle = handle
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise RepositoryError(f"{name} is not a regular file")
        self._size = status.st_size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        with _io_errors(f"cannot read {self._name}"):
            data = os.pread(self._handle, length, offset)
            if len(data) == length or not data:
                return data
            parts = [data]
            got = len(data)
            while got < length and (data := os.pread(self._handle, length - got, offset + got)):
                parts.append(data)
                got += len(data)
            return b"".join(parts)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
