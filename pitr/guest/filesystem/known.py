# SPDX-License-Identifier: GPL-2.0-or-later
"""The file systems that pitr reads, and the classes that read them."""

from __future__ import annotations

from importlib import import_module

from pitr.errors import FileSystemError, ProgramMissing
from pitr.guest.filesystem.base import FileSystem
from pitr.guest.filesystem.volume import VolumeFile

#: The name from `pitr.guest.partitions`, mapped to module and class.
READABLE = {
    "ext": ("ext", "Ext"),
    "xfs": ("xfs", "Xfs"),
    "btrfs": ("btrfs", "Btrfs"),
    "ntfs": ("ntfs", "Ntfs"),
    "fat": ("fat", "Fat"),
}
INSTEAD = (
    "Install libguestfs (Debian: libguestfs-tools), which pitr then uses ('--reader guestfs'), or restore the disk "
    "with 'pitr restore --to-file' and open it with another program."
)


def open_file_system(volume: VolumeFile, content: str | None, where: str) -> FileSystem:
    """Open the file system of a volume with the recognized `content`. `where` names the volume: "volume 1".

    Raises FileSystemError when it is damaged or unsupported, ProgramMissing when the libraries are not installed.
    """
    if content is None:
        raise FileSystemError(f"pitr does not recognize a file system on {where}", INSTEAD)
    reader = READABLE.get(content)
    if reader is None:
        raise FileSystemError(f"{where} contains {content}, which pitr cannot read", INSTEAD)
    check_installed()
    module, name = reader
    file_system: FileSystem = getattr(import_module(f"pitr.guest.filesystem.{module}"), name)(
        volume, f"the {content} file system on {where}"
    )
    return file_system


def check_installed() -> None:
    """Raise ProgramMissing when the extra is not installed."""
    try:
        for library in ("extfs", "xfs", "btrfs", "ntfs", "fat", "volume"):
            import_module(f"dissect.{library}")
    except ImportError as error:
        raise ProgramMissing(
            f"reading guests' file systems needs a library that is not installed ({error.name})",
            "Install it: pip install 'pitr[files]'.",
        ) from None
