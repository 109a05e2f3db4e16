# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in a folder of a POSIX file system.

The store writes an object to a scratch file, syncs and names it, and syncs its folder. After a crash the object is
complete or does not exist. Files have mode 0600 and folders 0700 for any umask, if the file system has modes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pitr.errors import RepositoryError
from pitr.repository.store.base import ListedObject, ObjectExists, ObjectMissing, check_name, is_name
from pitr.repository.store.folders import Folders, LinkInside
from pitr.repository.store.naming import Naming, set_mode, start_writing, sync_folder
from pitr.repository.store.scratch import Scratch
from pitr.system.closing import Closes

_FILE_MODE = 0o600
#: After so many bytes, the disk begins to write a large object of a batch.
_WRITE_EARLY = 32 << 20
SCRATCH = "tmp"


@contextmanager
def _io_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(what, error) from error


def _failure(what: str, error: OSError) -> RepositoryError:
    advice = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "Free some space (see 'pitr prune') and run the command again."
    elif error.errno == errno.EROFS:
        advice = "The repository's file system is read-only: run only commands that read."
    elif error.errno == errno.EFBIG:
        advice = (
            "The repository's file system does not allow files of this size (FAT: 4 GiB). Use another one."
        )
    return RepositoryError(f"{what}: {error.strerror or error}", advice)


class PosixStore:
    """A store in `folder`, which must exist. The caller closes the store, which removes its scratch files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scratch = Scratch(folder / SCRATCH)
        self._folders = Folders(folder)
        self._naming = Naming()

    def close(self) -> None:
        self._scratch.close()

    def new(self, name: str) -> _NewFile:
        check_name(name)
        with _io_errors(f"cannot write {name}"):
            return _NewFile(self._folders, self._naming, name, self._scratch.file())

    def replacing(self, name: str) -> _NewFile:
        check_name(name)
        with _io_errors(f"cannot write {name}"):
            return _NewFile(self._folders, self._naming, name, self._scratch.file(), replaces=True)

    def batch(self) -> _FileBatch:
        return _FileBatch(self)

    def create(self, name: str, data: bytes) -> None:
        with self.new(name) as new:
            new.write(data)
            new.commit()

    def sync_folders(self, names: set[str]) -> None:
        """Make the new names in these folders durable, those that were renamed gone from the scratch folder first."""
        with _io_errors("cannot write to the repository"):
            if names:
                with self._folders.opened(self._scratch.folder_name(SCRATCH), to_read=True) as scratch:
                    for name in sorted(names):
                        with self._folders.opened(name, to_read=True) as folder:
                            self._naming.sync(scratch, folder)

    def open(self, name: str) -> _OpenFile:
        # A check opens hundreds of thousands, so this needs no context managers.
        try:
            # A symbolic link would lead reads out of the repository. Without O_NONBLOCK, opening a pipe would wait
            # for its writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            return _OpenFile(name, self._folders.open_file(check_name(name), flags))
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing(name) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise LinkInside(self._path(name)) from None
            raise _failure(f"cannot read {name}", error) from error

    def read(self, name: str, *, limit: int) -> bytes:
        with self.open(name) as file:
            if file.size > limit:
                raise RepositoryError(f"{name} has {file.size} bytes; pitr accepts at most {limit} bytes")
            return file.read_at(0, file.size)

    def size(self, name: str) -> int:
        return self._status(name).st_size

    def written(self, name: str) -> datetime:
        return datetime.fromtimestamp(self._status(name).st_mtime, UTC)

    def _status(self, name: str) -> os.stat_result:
        with _io_errors(f"cannot read {name}"):
            try:
                with self._folder_of(name) as (folder, base):
                    status = os.stat(base, dir_fd=folder, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectMissing(name) from None
        if stat.S_ISLNK(status.st_mode):
            raise LinkInside(self._path(name))
        if not stat.S_ISREG(status.st_mode):
            raise RepositoryError(f"{name} is not a regular file")
        return status

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        check_name(prefix)
        with (
            _io_errors(f"cannot list {prefix}"),
            suppress(FileNotFoundError),
            self._folders.opened(prefix, to_read=True) as folder,
        ):
            yield from self._walk(prefix, folder, besides)

    def _walk(self, prefix: str, folder: int, besides: Container[str]) -> Iterator[str]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}/{entry.name}"
                # A file with another name is not an object, such as a hidden file of an editor or NFS, or "x (1)".
                if name in besides or not is_name(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError), self._folders.within(folder, name) as inner:
                        yield from self._walk(name, inner, besides)
                else:
                    yield name

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        for name in self.list(prefix):
            with suppress(ObjectMissing):
                status = self._status(name)
                yield ListedObject(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        with (
            _io_errors(f"cannot list {prefix}"),
            suppress(FileNotFoundError),
            self._folders.opened(prefix, to_read=True) as folder,
            os.scandir(folder) as entries,
        ):
            for entry in entries:
                if is_name(f"{prefix}/{entry.name}") and entry.is_dir(follow_symlinks=False):
                    yield entry.name

    def counts(self, prefix: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        names = list(self.folders(prefix))
        with (
            _io_errors(f"cannot list {prefix}"),
            suppress(FileNotFoundError),
            self._folders.opened(prefix, to_read=True) as folder,
        ):
            for name in names:
                with suppress(FileNotFoundError), self._folders.within(folder, f"{prefix}/{name}") as inner:
                    counts[name] = len(os.listdir(inner))  # noqa: PTH208 - an open folder, not a path
        return counts

    def delete(self, name: str) -> None:
        check_name(name)
        with (
            _io_errors(f"cannot delete {name}"),
            suppress(FileNotFoundError, NotADirectoryError),
            self._folder_of(name, to_read=True) as (folder, base),
        ):
            os.unlink(base, dir_fd=folder)
            sync_folder(folder)

    def local_file(self, name: str) -> Path:
        self.size(name)
        return self._path(name)

    def scratch_file(self) -> Path:
        """Return a path for a temporary file on this store's file system, which `close` removes."""
        with _io_errors("cannot write temporary files"):
            return self._scratch.file()

    def drop_scratch(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / check_name(name)

    def _folder_of(self, name: str, *, to_read: bool = False) -> AbstractContextManager[tuple[int, str]]:
        return self._folders.of(check_name(name), to_read=to_read)


class _NewFile:
    def __init__(
        self, folders: Folders, naming: Naming, name: str, scratch: Path, *, replaces: bool = False
    ) -> None:
        self._folders = folders
        self._replaces = replaces
        self._naming = naming
        self._name = name
        self._scratch = f"{SCRATCH}/{scratch.parent.name}/{scratch.name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with folders.of(self._scratch) as (folder, base):
            self._handle = os.open(base, flags, _FILE_MODE, dir_fd=folder)
        set_mode(self._handle, _FILE_MODE)

    def write(self, data: bytes | memoryview) -> None:
        left = len(data)
        try:
            while left and (left := left - os.write(self._handle, data)):
                data = memoryview(data)[-left:]
        except OSError:
            with _io_errors(f"cannot write {self._name}"):
                raise

    def commit(self) -> None:
        self.sync()
        self.give()

    def start_writing(self) -> None:
        """Begin to write the data to the disk."""
        start_writing(self._handle)

    def sync(self) -> None:
        """Make the data durable."""
        with _io_errors(f"cannot write {self._name}"):
            os.fsync(self._handle)

    @property
    def folder(self) -> str:
        """The folder of the object."""
        return self._name.rpartition("/")[0]

    def give(self, *, durable: bool = True) -> None:
        """Give the durable data its name; `durable`: also make that durable. Raises ObjectExists."""
        with _io_errors(f"cannot write {self._name}"):
            above, _, target = self._name.rpartition("/")
            with (
                self._folders.of(self._scratch, to_read=True) as (scratch_folder, scratch),
                self._folders.made(above) as folder,
            ):
                if self._replaces:
                    os.rename(scratch, target, src_dir_fd=scratch_folder, dst_dir_fd=folder)
                    sync_folder(folder)
                    return
                try:
                    self._naming.give(scratch, scratch_folder, target, folder)
                except FileExistsError:
                    raise ObjectExists(self._name) from None
                if durable:
                    self._naming.sync(scratch_folder, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        os.close(self._handle)
        # A rename has removed it already. If it cannot be removed now, a later `close` removes it.
        with suppress(OSError, LinkInside), self._folders.of(self._scratch) as (folder, base):
            os.unlink(base, dir_fd=folder)


class _FileBatch(Closes):
    def __init__(self, store: PosixStore) -> None:
        self._store = store
        self._files: list[_NewFile] = []

    def new(self, name: str) -> _BatchFile:
        return _BatchFile(self._files, self._store.new(name))

    def create(self, name: str, data: bytes) -> None:
        with self.new(name) as new:
            new.write(data)
            new.commit()

    def settle(self) -> None:
        # The first sync waits for the journal, which then has what the others need.
        for file in self._files:
            file.sync()
        for file in self._files:
            with suppress(ObjectExists):
                file.give(durable=False)
        self._store.sync_folders({file.folder for file in self._files})
        self.close()

    def close(self) -> None:
        while self._files:
            self._files.pop().__exit__(None, None, None)


class _BatchFile:
    """A file whose commit adds it to the files of a batch, which closes it then."""

    def __init__(self, files: list[_NewFile], file: _NewFile) -> None:
        self._files = files
        self._file: _NewFile | None = file
        self._waiting = 0

    def write(self, data: bytes | memoryview) -> None:
        if self._file is not None:
            self._file.write(data)
            self._waiting += len(data)
            if self._waiting >= _WRITE_EARLY:
                self._file.start_writing()
                self._waiting = 0

    def commit(self) -> None:
        if self._file is not None:
            self._file.start_writing()
            self._files.append(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._file is not None:
            self._file.__exit__(kind, error, trace)


class _OpenFile(Closes):
    def __init__(self, name: str, handle: int) -> None:
        self._name = name
        self._handle = handle
        try:
            status = os.fstat(handle)
        except OSError:
            os.close(handle)
            raise
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise RepositoryError(f"{name} is not a regular file")
        self._size = status.st_size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._handle, length, offset)
            if len(data) == length or not data:
                return data
            parts = [data]
            got = len(data)
            while got < length and (data := os.pread(self._handle, length - got, offset + got)):
                parts.append(data)
                got += len(data)
            return b"".join(parts)
        except OSError as error:
            raise _failure(f"cannot read {self._name}", error) from error

    def read_into(self, offset: int, buffer: memoryview) -> int:
        with _io_errors(f"cannot read {self._name}"):
            got = 0
            while got < len(buffer) and (more := os.preadv(self._handle, [buffer[got:]], offset + got)):
                got += more
            return got

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
