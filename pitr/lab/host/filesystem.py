# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks with a real ext4 file system, made and checked without mounting, so without root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pitr.errors import LabError
from pitr.process import require, run

_PROGRAMS = ("mke2fs", "e2fsck")
#: Debian keeps them where only root's PATH leads to.
_FOLDERS = os.pathsep.join(("/usr/sbin", "/sbin"))


def missing_programs() -> list[str]:
    """The programs of this module that are not installed."""
    return [program for program in _PROGRAMS if _find(program) is None]


def make_ext4(path: Path, size: int, files: Path) -> None:
    """Make an ext4 file system of `size` bytes, with all that folder `files` holds, in the new image `path`.

    The image is raw and sparse. Raises LabError when `path` exists, ProgramFailed when the files do not fit.
    """
    try:
        with path.open("xb") as image:
            os.truncate(image.fileno(), size)
    except FileExistsError:
        raise LabError(f"{path} exists already") from None
    run([_required("mke2fs"), "-q", "-F", "-t", "ext4", "-d", str(files), str(path)])


def check_ext4(image: Path) -> None:
    """Check the file system of a raw image without changing it. Raises ProgramFailed when it is not clean."""
    run([_required("e2fsck"), "-f", "-n", str(image)])


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_FOLDERS)


def _required(program: str) -> str:
    found = _find(program)
    if found is None:
        require(program)
        raise LabError(f"{program} appeared while it was looked for")
    return found
