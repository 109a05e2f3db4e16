# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks with a real ext4 file system: made, changed and checked without mounting, so without root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pitr.errors import LabError
from pitr.system.process import require, run

_PROGRAMS = ("mke2fs", "e2fsck", "debugfs")
#: Debian keeps them where only root's PATH leads to.
_FOLDERS = os.pathsep.join(("/usr/sbin", "/sbin"))


def missing_programs() -> list[str]:
    """The programs of this module that are not installed."""
    return [name for name in _PROGRAMS if _find(name) is None]


def make_ext4(path: Path, size: int, files: Path) -> None:
    """Make an ext4 file system of `size` bytes, with all that folder `files` holds, in the new image `path`.

    The image is raw and sparse. Raises LabError when `path` exists, ProgramFailed when the files do not fit.
    """
    try:
        with path.open("xb") as image:
            os.truncate(image.fileno(), size)
    except FileExistsError:
        raise LabError(f"{path} exists already") from None
    run([program("mke2fs"), "-q", "-F", "-t", "ext4", "-d", str(files), str(path)])


def check_ext4(image: Path) -> None:
    """Check the file system of a raw image without changing it. Raises ProgramFailed when it is not clean."""
    run([program("e2fsck"), "-f", "-n", str(image)])


def edit_ext4(image: Path, commands: Sequence[str]) -> None:
    """Change the file system of a raw image with `commands` of debugfs, and trim it: free blocks read as zero.

    debugfs goes on after a command that failed, so look at what came out. Raises ProgramFailed.
    """
    with tempfile.NamedTemporaryFile("w", prefix="edit-", dir=image.parent) as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        run([program("debugfs"), "-w", "-f", script.name, str(image)])
    run([program("e2fsck"), "-f", "-p", "-E", "discard", str(image)])


def program(name: str) -> str:
    """Where the program `name` of e2fsprogs is. Raises ProgramMissing."""
    found = _find(name)
    if found is None:
        require(name)
        raise LabError(f"{name} appeared while it was looked for")
    return found


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_FOLDERS)
