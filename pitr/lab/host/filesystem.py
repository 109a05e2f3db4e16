# SPDX-License-Identifier: GPL-2.0-or-later
"""Create, change and check ext4 file systems in images without mounting them, so without root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pitr.errors import LabError
from pitr.system.process import require, run

_PROGRAMS = ("mke2fs", "e2fsck", "debugfs")
#: Debian installs them in folders that are only on root's PATH.
_FOLDERS = os.pathsep.join(("/usr/sbin", "/sbin"))


def missing_programs() -> list[str]:
    """Return the names of the programs that this module needs and that are not installed."""
    return [name for name in _PROGRAMS if _find(name) is None]


def make_ext4(path: Path, size: int, files: Path) -> None:
    """Create an ext4 file system of `size` bytes with the contents of the folder `files` in the new image `path`.

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
    """Change the file system of a raw image with debugfs `commands`, and trim it so that free blocks read as zero.

    debugfs goes on after a command that failed, so look at what came out. Raises ProgramFailed.
    """
    with tempfile.NamedTemporaryFile("w", prefix="edit-", dir=image.parent) as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        run([program("debugfs"), "-w", "-f", script.name, str(image)])
    run([program("e2fsck"), "-f", "-p", "-E", "discard", str(image)])


def program(name: str) -> str:
    """Return the path of the program `name` of e2fsprogs. Raises ProgramMissing."""
    found = _find(name)
    if found is None:
        require(name)
        raise LabError(f"{name} was installed during the search for it")
    return found


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_FOLDERS)
