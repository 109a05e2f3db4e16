# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file systems are read, and by what."""

from __future__ import annotations

from importlib import import_module

from pitr.errors import FileSystemError, ProgramMissing
from pitr.guest.filesystem.base import FileSystem
from pitr.guest.filesystem.volume import VolumeFile

#: What `pitr.guest.partitions` calls them, to module and class.
READABLE = {
    "ext": ("ext", "Ext"),
    "xfs": ("xfs", "Xfs"),
    "btrfs": ("btrfs", "Btrfs"),
    "ntfs": ("ntfs", "Ntfs"),
    "fat": ("fat", "Fat"),
}
INSTEAD = (
    "Restore the disk ('pitr restore --to-file') and open it with what knows it, guestmount for example."
)


def open_file_system(volume: VolumeFile, content: str | None, where: str) -> FileSystem:
    """Open the file system that a volume was recognized to hold; `where` names the volume: "volume 1".

    Raises FileSystemError when it is damaged or of another kind, ProgramMissing without the libraries.
    """
    if content is None:
        raise FileSystemError(f"on {where} no file system is recognized", INSTEAD)
    found = READABLE.get(content)
    if found is None:
        raise FileSystemError(f"{where} holds {content}, which is not read here", INSTEAD)
    check_installed()
    module, name = found
    made: FileSystem = getattr(import_module(f"pitr.guest.filesystem.{module}"), name)(
        volume, f"the {content} file system on {where}"
    )
    return made


def check_installed() -> None:
    """Raise ProgramMissing when the extra is not installed."""
    try:
        for library in ("extfs", "xfs", "btrfs", "ntfs", "fat", "volume"):
            import_module(f"dissect.{library}")
    except ImportError as error:
        raise ProgramMissing(
            f"reading guests' file systems needs libraries that are not installed ({error.name})",
            "Install them: pip install 'pitr[files]'.",
        ) from None
