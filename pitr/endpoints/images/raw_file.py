# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in raw image files and on block devices."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pitr.endpoints.images.memory import check_range
from pitr.endpoints.images.partial_file import PartialFile, file_errors, hold
from pitr.errors import PitrError
from pitr.extents import ExtentMap
from pitr.system.block_device import open_exclusively
from pitr.system.closing import Closes
from pitr.system.target_path import check_image_target

MAX_CONNECTIONS: Final = 8

_ZERO_PIECE: Final = 1 << 20
_FALLOC_KEEP_SIZE: Final = 0x01
_FALLOC_PUNCH_HOLE: Final = 0x02
#: linux/fs.h: _IO(0x12, 127); takes offset and length as two 64-bit integers.
_BLKZEROOUT: Final = 0x127F
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class RawFileSource(Closes):
    """A source that reads a raw image file or a block device. Its zero extents are the holes of the file.

    The disk ends after `size` bytes, or with the file: a block device can be larger than the disk. The file must not
    change meanwhile. Close the readers first, then the source. Raises PitrError.
    """

    def __init__(self, path: Path, *, size: int | None = None, max_readers: int = MAX_CONNECTIONS) -> None:
        self._path = path
        self._max_readers = max_readers
        with file_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            whole = os.lseek(self._descriptor, 0, os.SEEK_END)
            self._size = whole if size is None else min(size, whole)

    @property
    def size(self) -> int:
        return self._size

    @property
    def max_readers(self) -> int:
        return self._max_readers

    def extents(self) -> ExtentMap:
        with file_errors(self._path):
            return ExtentMap.of(self._ranges()).checked(self._size, whole=True)

    def open_reader(self) -> RawFileReader:
        return RawFileReader(self._path, self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ranges(self) -> Iterator[tuple[int, int, bool]]:
        position = 0
        while position < self._size:
            data = self._seek(position, os.SEEK_DATA)
            if data > position:
                yield position, data - position, True
            position = self._seek(data, os.SEEK_HOLE)
            if position > data:
                yield data, position - data, False

    def _seek(self, position: int, whence: int) -> int:
        """Return the offset of the next data or hole at or after `position`, or the end of the disk."""
        if position >= self._size:
            return self._size
        try:
            return min(os.lseek(self._descriptor, position, whence), self._size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self._size
            if error.errno == errno.EINVAL:
                # A block device, or a file system without SEEK_HOLE: all of it is data.
                return position if whence == os.SEEK_DATA else self._size
            raise


class RawFileReader(Closes):
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        with file_errors(self._path):
            for offset, length in ranges:
                self._read(offset, buffer[at : at + length])
                at += length

    def close(self) -> None:
        """Close nothing: the file belongs to the source."""

    def _read(self, offset: int, view: memoryview) -> None:
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise PitrError(f"{self._path} now ends at {offset}: it became shorter while pitr read it")
            view = view[count:]
            offset += count


class RawFileSink:
    """A sink that writes a new, sparse raw image file. `flush` gives the file its name.

    With `overwrite_device` it writes a block device in place, keeps the bytes behind the disk's `size`, and does not
    expect it to read as zero. Raises UsageError when the target already exists, or is a block device that is not to be
    overwritten, in use or too small. Raises PitrError when pitr cannot write.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        *,
        overwrite_device: bool = False,
        max_writers: int = MAX_CONNECTIONS,
    ) -> None:
        check_image_target(path, size, overwrite_device=overwrite_device)
        self._max_writers = max_writers
        self._size = size
        self._partial: PartialFile | None = None
        if path.is_block_device():
            self._path = path
            self._descriptor = open_exclusively(path, size)
            return
        self._partial = PartialFile(path)
        self._path = self._partial.path
        self._descriptor = -1
        try:
            with file_errors(self._path):
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                # Another restore could take a partial file for one of a killed restore, and go on with it.
                hold(self._descriptor, path)
                _grow(self._path, self._descriptor, size)
        except BaseException:
            self.abort()
            raise

    @property
    def max_writers(self) -> int:
        return self._max_writers

    @property
    def reads_zero(self) -> bool:
        return self._partial is not None

    def open_writer(self) -> RawFileWriter:
        return RawFileWriter(self._path, self._descriptor, self._size)

    def flush(self) -> None:
        with file_errors(self._path):
            os.fsync(self._descriptor)
        self._close()
        if self._partial is not None:
            self._partial.commit()

    def abort(self) -> None:
        self._close()
        if self._partial is not None:
            self._partial.abort()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RawFileWriter(Closes):
    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = size
        self._can_zero = True

    def write(self, offset: int, data: memoryview) -> None:
        check_range(offset, len(data), self._size)
        with file_errors(self._path):
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data = data[count:]
                offset += count

    def zero(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)
        if length == 0:
            return
        if self._can_zero:
            with file_errors(self._path):
                self._can_zero = _zeroed(self._descriptor, offset, length)
        if not self._can_zero:
            zeroes = memoryview(bytes(min(length, _ZERO_PIECE)))
            for start in range(offset, offset + length, _ZERO_PIECE):
                self.write(start, zeroes[: min(_ZERO_PIECE, offset + length - start)])

    def close(self) -> None:
        """Close nothing: the file belongs to the sink."""


def _grow(path: Path, descriptor: int, size: int) -> None:
    """Give a new file its size. The new range reads as zero."""
    try:
        os.ftruncate(descriptor, size)
    except PermissionError:
        # truncate(2): some file systems refuse. Writing the last byte instead could expose old data of the device.
        raise PitrError(
            f"the file system of {path.parent} cannot extend a file without writing it",
            "Name a place on another file system.",
        ) from None


def _zeroed(descriptor: int, offset: int, length: int) -> bool:
    """Zero a range without writing it. Return False when the file or device does not support this."""
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        try:
            fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("=QQ", offset, length))
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True
    if _libc.fallocate(descriptor, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code))
