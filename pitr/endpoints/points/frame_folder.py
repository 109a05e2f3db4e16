# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompressed frames in a folder on a fast local disk: a cache that is larger than memory and outlives the command.

A file holds one frame under its digest: the data, a digest of each block of it, and a digest of all that. So a small
read verifies one block instead of the frame. A file that does not match is removed, and its frame counts as missing.
Several commands can use one folder at the same time.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pitr.errors import UsageError
from pitr.repository.blob import digest_of
from pitr.system.closing import Closes
from pitr.units import GIB, MIB

_log = logging.getLogger(__name__)

DEFAULT_SIZE: Final = 16 * GIB
LEAST_SIZE: Final = 16 * MIB
#: Smaller frames decompress about as fast as a file is opened.
LEAST_FRAME: Final = 16 << 10
#: pitr keeps its files in this folder of the named one, with the version of their format.
_NAME: Final = "pitr-frames-1"
_TAG_NAME: Final = "CACHEDIR.TAG"
_TAG: Final = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# pitr's cache of decompressed data. You can delete it.\n"
)
_BLOCK: Final = 64 << 10
_BLOCK_DIGEST: Final = 16
_DIGEST: Final = 32
_FRAME_NAME: Final = re.compile(r"[0-9a-f]{64}")
#: The number of blocks that stay in memory.
_RECENT: Final = 128
_NEW: Final = "new-"
#: A file without its final name is this old when its writer was killed.
_ABANDONED_S: Final = 3600
#: Other programs need space, too: this share of the file system stays free.
_FREE_SHARE: Final = 0.05


class FrameFolder(Closes):
    """Frames of up to `capacity` bytes below the folder `place`. Any number of threads use it.

    A frame that was not used for the longest time makes room for a new one. Raises UsageError if the folder cannot be
    used; later, an error of the folder only means that frames come from the repository.
    """

    def __init__(self, place: Path, capacity: int = DEFAULT_SIZE) -> None:
        self._place = place / _NAME
        self._capacity = capacity
        self._lock = threading.Lock()
        self._folder = _private_folder(place)
        # The size of each file by its name, the one that was used last at the end.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used = 0
        #: Bytes that this command has added since it looked at the folder.
        self._added = 0
        self._touched: set[str] = set()
        self._is_full = False
        # Blocks that small reads verified: guests and file systems read on from there.
        self._recent: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        try:
            self._scan()
        except BaseException:
            os.close(self._folder)
            raise

    @property
    def used(self) -> int:
        """Return the bytes of the frames that the folder holds."""
        return self._used

    def has(self, digest: bytes) -> bool:
        """Return whether the folder holds a frame, as far as this command knows."""
        return digest.hex() in self._sizes

    def whole(self, digest: bytes, length: int) -> bytes | None:
        """Return a frame of `length` bytes after its digest is verified; None if the folder does not hold it."""
        name = digest.hex()
        parts = self._read(name, [(0, length)])
        if parts is None:
            return None
        data = parts[0]
        if len(data) != length or digest_of(data) != digest:
            self._drop_wrong(name)
            return None
        self._note_use(name)
        return data

    def part(self, digest: bytes, length: int, begin: int, end: int) -> memoryview | None:
        """Return the bytes from `begin` to `end` of a frame of `length` bytes, all verified; None without it."""
        first, last = begin // _BLOCK, (end - 1) // _BLOCK + 1
        start = first * _BLOCK
        is_one = last == first + 1
        data = self._recent.get((digest, first)) if is_one else None
        if data is None:
            data = self._blocks(digest, length, first, last)
            if data is None:
                return None
            if is_one:
                self._remember((digest, first), data)
        return data[begin - start : end - start]

    def _remember(self, block: tuple[bytes, int], data: memoryview) -> None:
        with self._lock:
            self._recent[block] = data
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    def _blocks(self, digest: bytes, length: int, first: int, last: int) -> memoryview | None:
        """Read the blocks from `first` up to `last` and verify them; None if the folder does not hold them."""
        name = digest.hex()
        start, stop = first * _BLOCK, min(last * _BLOCK, length)
        parts = self._read(name, [(start, stop - start), (length, _trailer_size(length))])
        if parts is None:
            return None
        data, table, seal = memoryview(parts[0]), parts[1][:-_DIGEST], parts[1][-_DIGEST:]
        wanted = table[first * _BLOCK_DIGEST : last * _BLOCK_DIGEST]
        if len(data) != stop - start or seal != _seal(digest, length, table) or wanted != _table(data):
            self._drop_wrong(name)
            return None
        self._note_use(name)
        return data

    def add(self, digest: bytes, data: bytes) -> None:
        """Keep a frame whose digest was verified."""
        name, size = digest.hex(), len(data) + _trailer_size(len(data))
        try:
            if len(data) < LEAST_FRAME or not self._has_room(name, size):
                return
            table = _table(memoryview(data))
            self._write(name, [data, table, _seal(digest, len(data), table)])
        except OSError as error:
            self._stop_adding(error.strerror or str(error))
            return
        with self._lock:
            if name not in self._sizes:
                self._sizes[name] = size
                self._used += size
                self._added += size
            self._touched.add(name)

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    # Files

    def _read(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """Return ranges of a file, (offset, length) each; None if it cannot be read."""
        if name not in self._sizes:
            return None
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
            try:
                return [os.pread(file, length, offset) for offset, length in ranges]
            finally:
                os.close(file)
        except OSError:
            # Often another command made room.
            self._forget(name)
            return None

    def _write(self, name: str, parts: list[bytes]) -> None:
        new = f"{_NEW}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(new, flags, 0o600, dir_fd=self._folder)
        try:
            try:
                written = os.writev(file, parts)
            finally:
                os.close(file)
            if written != sum(map(len, parts)):
                raise OSError(0, "the file system is full")
            os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=self._folder)
            raise

    def _drop_wrong(self, name: str) -> None:
        _log.warning("%s/%s is damaged: pitr reads its data from the repository", self._place, name)
        self._forget(name)
        with suppress(OSError):
            os.unlink(name, dir_fd=self._folder)

    # What the folder holds

    def _note_use(self, name: str) -> None:
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
            if name in self._touched:
                return
            self._touched.add(name)
        # The next command removes by this time what was not used for the longest time.
        with suppress(OSError):
            os.utime(name, dir_fd=self._folder)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._used -= self._sizes.pop(name, 0)

    def _has_room(self, name: str, size: int) -> bool:
        """Return whether a new file of this name and size may be added."""
        with self._lock:
            if name in self._sizes or self._is_full:
                return False
            if self._added > self._capacity // 8:
                # Other commands may have filled the folder meanwhile.
                self._scan()
            return self._make_room(size)

    def _make_room(self, size: int) -> bool:
        """Remove frames until there is room for `size` bytes; return whether there is. The caller holds the lock."""
        free = _free_bytes(self._folder) - size
        while self._used + size > self._capacity or free < 0:
            if not self._sizes:
                return False
            name, removed = self._sizes.popitem(last=False)
            self._used -= removed
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
                free += removed
        return True

    def _scan(self) -> None:
        """Learn which frames the folder holds, and remove what killed commands left."""
        found: dict[str, tuple[int, int]] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if _FRAME_NAME.fullmatch(entry.name):
                        found[entry.name] = status.st_mtime_ns, status.st_size
                    elif entry.name.startswith(_NEW) and status.st_mtime < time.time() - _ABANDONED_S:
                        os.unlink(entry.name, dir_fd=self._folder)
        known = [name for name in self._sizes if name in found]
        others = sorted(found.keys() - set(known), key=lambda name: found[name])
        self._sizes = OrderedDict((name, found[name][1]) for name in known + others)
        self._used = sum(self._sizes.values())
        self._added = 0

    def _stop_adding(self, why: str) -> None:
        with self._lock:
            if self._is_full:
                return
            self._is_full = True
        _log.warning("cannot add to %s: %s. pitr goes on without adding", self._place, why)


def _private_folder(place: Path) -> int:
    """Open pitr's folder below `place` and create both if they are missing. Raises UsageError."""
    own = place / _NAME
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place} is not a folder", "Name a folder on a local disk.")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        own.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"cannot use {own} as a cache: {error.strerror}",
            "Name a folder on a local disk that you can write.",
        ) from None
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise UsageError(
                f"cannot use {own} as a cache: other users own it or can open it",
                "Name a folder of your own. pitr creates it with mode 0700.",
            )
        _write_tag(folder)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _write_tag(folder: int) -> None:
    """Mark the folder as a cache, so that programs for backups skip it."""
    with suppress(OSError):
        file = os.open(_TAG_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            os.write(file, _TAG)
        finally:
            os.close(file)


def _free_bytes(folder: int) -> int:
    """Return the bytes that this user can write before too little of the file system is free."""
    status = os.fstatvfs(folder)
    return int((status.f_bavail - status.f_blocks * _FREE_SHARE) * status.f_frsize)


def _trailer_size(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK_DIGEST + _DIGEST


def _table(data: memoryview) -> bytes:
    """Return the digests of the blocks of `data`."""
    return b"".join(
        digest_of(data[start : start + _BLOCK])[:_BLOCK_DIGEST] for start in range(0, len(data), _BLOCK)
    )


def _seal(digest: bytes, length: int, table: bytes) -> bytes:
    """Return the digest that binds the digests of the blocks to the frame."""
    return digest_of(digest + length.to_bytes(8, "big") + table)
