# SPDX-License-Identifier: GPL-2.0-or-later
"""Find out whether anything uses a block device, before pitr overwrites it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pitr.errors import PitrError, UsageError

#: linux/fs.h: _IO(0x12, 94); the answer is not 0 for a read-only device.
_BLKROGET: Final = 0x125E
_MOUNTS: Final = Path("/proc/self/mountinfo")
_SWAPS: Final = Path("/proc/swaps")
_DEVICES: Final = Path("/sys/dev/block")


def check_writable(path: Path, size: int) -> None:
    """Check that pitr can overwrite the block device `path` with a disk of `size` bytes. Write nothing.

    Raises UsageError when the device is in use, read-only or too small, PitrError when it cannot be opened.
    """
    refuse_in_use(path)
    try:
        # Opening it for writing would tell the system of a change when it is closed again.
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(path, error) from None
    try:
        capacity = os.lseek(descriptor, 0, os.SEEK_END)
        read_only = _is_read_only(descriptor)
    finally:
        os.close(descriptor)
    if read_only or not os.access(path, os.W_OK):
        raise UsageError(f"pitr cannot write to the block device {path}", "Check its permissions.")
    check_capacity(path, capacity, size)


def open_exclusively(path: Path, size: int) -> int:
    """Open a block device for reading and writing; the caller closes the descriptor. Raises as `check_writable`."""
    refuse_in_use(path)
    try:
        # O_EXCL without O_CREAT fails when the block device is in use, for example by a mounted file system.
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(path, error) from None
    try:
        check_capacity(path, os.lseek(descriptor, 0, os.SEEK_END), size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_capacity(path: Path, capacity: int, size: int) -> None:
    if capacity < size:
        raise UsageError(
            f"{path} has {capacity} bytes, but the disk needs {size}", "Name a larger block device."
        )


def refuse_in_use(path: Path) -> None:
    """Raise UsageError if the device, one of its partitions or a device on top of it is mounted or in use."""
    real = path.resolve()
    numbers = dict(_family(real.stat().st_rdev, real.name))
    for reason in (_mounted(numbers), _swap(numbers), _held(numbers)):
        if reason is not None:
            raise _in_use(path, reason)


def _family(number: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield the number and name of a device and of its partitions."""
    yield number, name
    for partition in _folder(number).glob("*/partition"):
        text = (partition.parent / "dev").read_text().strip()
        major, _, minor = text.partition(":")
        yield os.makedev(int(major), int(minor)), partition.parent.name


def _folder(number: int) -> Path:
    return _DEVICES / f"{os.major(number)}:{os.minor(number)}"


def _mounted(numbers: Mapping[int, str]) -> str | None:
    """Return where one of the devices is mounted; None if none is."""
    for line in _lines(_MOUNTS):
        fields = line.split()
        major, _, minor = fields[2].partition(":")
        # Btrfs has a number of its own here; then the source names the device.
        source = fields[fields.index("-") + 2] if "-" in fields else ""
        for number in (os.makedev(int(major), int(minor)), _number_of(_unescaped(source))):
            if number is not None and number in numbers:
                return f"{numbers[number]} is mounted on {_unescaped(fields[4])}"
    return None


def _swap(numbers: Mapping[int, str]) -> str | None:
    for line in _lines(_SWAPS)[1:]:
        number = _number_of(_unescaped(line.split()[0]))
        if number is not None and number in numbers:
            return f"the system uses {numbers[number]} as swap"
    return None


def _held(numbers: Mapping[int, str]) -> str | None:
    for number, name in numbers.items():
        holders = sorted(holder.name for holder in (_folder(number) / "holders").glob("*"))
        if holders:
            return f"{name} is a part of {', '.join(holders)}"
    return None


def _number_of(source: str) -> int | None:
    """Return the number of the block device `source`; None if it is not a block device."""
    if not source.startswith("/"):
        return None
    try:
        status = Path(source).stat()
    except OSError:
        # The source of a mount can be any text, and its file can be gone.
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _unescaped(text: str) -> str:
    """Return a word of these files: a space stands there as \\040 (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        # A kernel without swap has no /proc/swaps.
        return []


def _is_read_only(descriptor: int) -> bool:
    answer = fcntl.ioctl(descriptor, _BLKROGET, bytes(4))
    return bool(struct.unpack("i", answer)[0])


def _in_use(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"the block device {path} is in use: {reason}", "Unmount or detach it, or name another block device."
    )


def _cannot_open(path: Path, error: OSError) -> PitrError:
    if error.errno == errno.EBUSY:
        return _in_use(path, "another program has opened it exclusively")
    return PitrError(f"cannot open the block device {path}: {error.strerror}", "Check its permissions.")
