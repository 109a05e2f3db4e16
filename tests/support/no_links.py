# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems without hard links: a real exFAT in an image, and this one with links refused as FAT refuses them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pitr.repository.store import naming

_PROGRAMS = ("losetup", "mkfs.exfat", "mount.exfat-fuse", "umount")


@contextmanager
def exfat(folder: Path) -> Iterator[Path]:
    """An empty exFAT, mounted through FUSE: neither hard nor symbolic links, no modes, no renameat2. Else a skip."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in _PROGRAMS if shutil.which(program, path=path) is None]
    if missing or os.getuid() or not Path("/dev/fuse").exists():
        pytest.skip(f"mounting exFAT needs root, /dev/fuse and {', '.join(missing or _PROGRAMS)}")

    environment = {**os.environ, "PATH": path}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()}")
        return done.stdout.strip()

    image, mounted = folder / "exfat.img", folder / "exfat"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.exfat", image)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount.exfat-fuse", device, mounted)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", mounted], env=environment, check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], env=environment, check=True)


def refuse_links(monkeypatch: pytest.MonkeyPatch, *, renameat2: bool) -> None:
    """Refuse hard links, and renames with flags too unless `renameat2`, with the errors of Linux's FAT and FUSE."""

    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def rename(*_: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "link", link)
    if not renameat2:
        ways = tuple(rename if way is naming.rename_no_replace else way for way in naming.WAYS)
        monkeypatch.setattr(naming, "WAYS", ways)
