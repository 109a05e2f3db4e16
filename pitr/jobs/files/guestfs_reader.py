# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the file systems of a point with libguestfs, over pitr's NBD server."""

from __future__ import annotations

import string
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.errors import FileSystemError, ProgramMissing
from pitr.guest import guestfish
from pitr.guest.filesystem import FileSystem
from pitr.guest.filesystem.guestfs import Guestfs
from pitr.guest.filesystem.limits import unbounded_memory
from pitr.guest.guestfish import Guestfish
from pitr.jobs.serve.over_nbd import serving
from pitr.model import Backup, Stream
from pitr.reporting import Notify
from pitr.repository import Repository
from pitr.system.sockets import unix_listener

_CACHE_BYTES: Final = 64 << 20
#: Contents that libguestfs lists, but cannot mount.
_NOT_MOUNTABLE: Final = {
    "swap": "swap is not supported",
    "unknown": "libguestfs found no known file system",
    "crypto_LUKS": "it is encrypted (LUKS)",
    "BitLocker": "it is encrypted (BitLocker)",
}


class FileReader(StrEnum):
    """The reader of guests' file systems."""

    OWN = "own"
    GUESTFS = "guestfs"


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume that libguestfs found: its disk, the name for --volume, size in bytes, device in the appliance."""

    disk: Stream
    name: str
    size: int
    content: str
    device: str
    label: str
    problem: str | None


class GuestfsReader:
    """libguestfs over the disks of a point. It starts when it is first used; leaving the context ends it."""

    def __init__(
        self,
        repository: Repository,
        backup: Backup,
        streams: Sequence[Stream],
        notify: Notify,
        cache_folder: FrameFolder | None = None,
    ) -> None:
        self._repository = repository
        self._backup = backup
        self._streams = list(streams)
        self.notify = notify
        self._cache_folder = cache_folder
        self._stack = ExitStack()
        self._shell: Guestfish | None = None
        self._mounted = 0

    def __enter__(self) -> GuestfsReader:
        return self

    def __exit__(self, *_: object) -> None:
        with unbounded_memory():
            self._stack.close()

    @property
    def is_installed(self) -> bool:
        return guestfish.is_installed()

    def open(self, disk: Stream, name: str, title: str) -> FileSystem:
        """Open the file system of a volume. Raises FileSystemError, ProgramMissing, ProgramFailed."""
        return self.open_device(self._device(disk, name), title)

    def open_device(self, device: str, title: str) -> FileSystem:
        shell, scratch = self._started()
        folder = f"/v{self._mounted}"
        self._mounted += 1
        kind = shell.run("vfs-type", device).decode(errors="replace").strip()
        shell.run("mkmountpoint", folder)
        try:
            shell.run("mount-ro", device, folder)
        except FileSystemError as error:
            raise FileSystemError(f"libguestfs cannot read {title}: {error.message}") from None
        return Guestfs(shell, folder, kind, f"the {kind} file system on {title}", scratch)

    def volumes(self) -> list[FoundVolume]:
        """List the volumes with file systems. Raises ProgramMissing, ProgramFailed."""
        shell, _ = self._started()
        found = []
        for line in shell.run("list-filesystems").decode(errors="surrogateescape").splitlines():
            device, _, content = line.rpartition(": ")
            if device.startswith("/dev/"):
                disk, name = self._place(device)
                size = int(shell.run("blockdev-getsize64", device))
                label = b"" if content in _NOT_MOUNTABLE else self._label(device)
                found.append(
                    FoundVolume(
                        disk,
                        name,
                        size,
                        content,
                        device,
                        label.decode(errors="replace").strip(),
                        _NOT_MOUNTABLE.get(content),
                    )
                )
        return found

    def _label(self, device: str) -> bytes:
        (label,) = self._started()[0].run_all([("vfs-label", device)])
        return b"" if isinstance(label, FileSystemError) else label

    def _started(self) -> tuple[Guestfish, Path]:
        if self._shell is None:
            if not self.is_installed:
                raise ProgramMissing("libguestfs is not installed", guestfish.MISSING)
            self.notify("starting libguestfs, which takes some seconds")
            # The VM needs more memory than pitr allows a library that reads a guest's data.
            with unbounded_memory():
                folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="pitr-")))
                self._folder = folder
                listener = self._stack.enter_context(unix_listener(folder / "nbd"))
                self._stack.enter_context(
                    serving(
                        self._repository,
                        self._backup,
                        self._streams,
                        listener,
                        cache_bytes=_CACHE_BYTES,
                        folder=self._cache_folder,
                    )
                )
                shell = Guestfish(folder / "nbd", [stream.disk_id for stream in self._streams])
                self._stack.callback(shell.close)
            self._shell = shell
        return self._shell, self._folder / "data"

    def _device(self, disk: Stream, name: str) -> str:
        if "/" in name:
            return f"/dev/{name}"
        drive = f"/dev/sd{_letters(self._streams.index(disk))}"
        return drive if name == "0" else f"{drive}{name}"

    def _place(self, device: str) -> tuple[Stream, str]:
        """Return the disk of a device, and its name as pitr names volumes."""
        for number, stream in enumerate(self._streams):
            drive = f"/dev/sd{_letters(number)}"
            part = device.removeprefix(drive)
            if device == drive:
                return stream, "0"
            if device.startswith(drive) and part.isdecimal():
                return stream, part
        return self._streams[0], device.removeprefix("/dev/")


def _letters(number: int) -> str:
    """Return the letters of the n-th drive: a, b, …, z, aa, ab, …"""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, len(string.ascii_lowercase))
        letters = string.ascii_lowercase[rest] + letters
    return letters
