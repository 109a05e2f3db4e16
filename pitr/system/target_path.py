# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the paths that a command line names, before anything is written there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pitr.errors import UsageError
from pitr.system import block_device

#: The formats that users expect behind these suffixes.
_IMAGE_SUFFIXES: Final = {
    ".raw": "raw",
    ".qcow2": "qcow2",
    ".qcow": "qcow2",
    ".qed": "qed",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".vhd": "vhd",
    ".vhdx": "vhdx",
    ".ova": "ova",
}
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: host:/path, user@host:path, remote:bucket
_REMOTE: Final = re.compile(r"[^/:]+:")
_HOST_PATH: Final = re.compile(r"[^/:]+:/")
_DEVICES: Final = Path("/dev")
#: A file system in memory, which is for files.
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108


def given_path(option: str) -> Callable[[str], Path]:
    """Return a parser for the path that `option` ("--cafile") names. It raises UsageError for an unusable text."""
    return lambda text: Path(usable(text, option))


def new_file(option: str) -> Callable[[str], Path]:
    """Return a parser for the new file that `option` ("--html") names. It raises UsageError for an unusable text."""
    return lambda text: checked_new_file(text, option)


def usable(text: str, option: str) -> str:
    """Return `text`. Raises UsageError if it is empty, "-", or the address of another machine."""
    if not text.strip():
        raise UsageError(f"{option} is empty", "Name a path. In scripts, check that the variable is set.")
    if text == "-":
        raise UsageError(
            f"{option} needs a path: '-' is not a file here", "For a file with this name, write ./-"
        )
    if "\0" in text:
        raise UsageError(f"{option}: a path cannot contain a null character", "Name another path.")
    if _URL.match(text):
        raise UsageError(
            f"{option} needs a local path, not the URL {text}", "Mount the storage, and name a path there."
        )
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise UsageError(f"{option}: cannot use {text}: {error.strerror}", "Name another path.") from None
    return text


def checked_new_file(text: str, option: str) -> Path:
    """Return the path of the new file that `option` names. Raises UsageError if pitr cannot create a file there."""
    path = Path(usable(text, option))
    if text.endswith("/") or path.is_dir():
        raise UsageError(f"{option}: {text} is a folder", f"Name a file in it: {option} {path / 'NAME'}")
    if path.is_block_device():
        raise UsageError(
            f"{option}: {text} is a block device, and pitr creates a file here",
            "To overwrite a block device with a disk, use: pitr restore --to-file DEVICE --overwrite-device",
        )
    refuse_existing(path)
    refuse_new_device(path)
    return path


def refuse_existing(path: Path) -> None:
    """Raise UsageError if the path exists, also as a link that leads nowhere."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} already exists", "Remove it, or name another file or folder.")


def refuse_new_device(path: Path) -> None:
    """Raise UsageError if `path`, which does not exist, is in /dev: a file there fills the memory."""
    folder = path.parent.resolve()
    if folder.is_relative_to(_DEVICES) and not folder.is_relative_to(_SHARED_MEMORY):
        raise UsageError(
            f"the device {path} does not exist, and pitr creates no files in /dev",
            "List the devices with 'lsblk', or name a file in another folder.",
        )


def check_image_target(path: Path, size: int, *, overwrite_device: bool) -> None:
    """Check that pitr can write a disk of `size` bytes to `path`, a new file or a block device. Write nothing.

    A link to a device is a device. Raises UsageError and PitrError.
    """
    if path.is_block_device():
        if not overwrite_device:
            raise UsageError(
                f"{path} is a block device, and a restore would overwrite all data on it",
                "Check it with 'lsblk'. If you are sure, add --overwrite-device.",
            )
        block_device.check_writable(path, size)
        return
    refuse_existing(path)
    refuse_new_device(path)


def format_of_suffix(path: str | Path) -> str | None:
    """Return the image format that the suffix promises; None if it promises none."""
    return _IMAGE_SUFFIXES.get(Path(path).suffix.lower())


def repository_folder(text: str) -> Path:
    """Return the folder of a repository. Raises UsageError for an empty text and for the address of another machine.

    A folder that exists is never taken for an address.
    """
    if text.startswith("file://"):
        raise UsageError(
            f"the repository {text} is a URL", f"Write its folder: --repo {text.removeprefix('file://')}"
        )
    if Path(text).is_dir() and text.strip():
        return Path(text)
    if _REMOTE.match(text) and not _URL.match(text) and _HOST_PATH.match(text):
        host, _, folder = text.partition(":")
        raise UsageError(
            f"the repository {text} looks like a folder on another machine: pitr needs a local folder",
            f"Mount it, for example with 'mount -t nfs {host}:{folder} /mnt/pitr', and write --repo /mnt/pitr. "
            f"For a local folder with this name, write --repo ./{text}",
        )
    if _REMOTE.match(text):
        raise UsageError(
            f"the repository {text} looks like remote storage: pitr needs a local folder",
            "Mount the storage, and write its folder: --repo /mnt/pitr",
        )
    return Path(usable(text, "--repo"))
