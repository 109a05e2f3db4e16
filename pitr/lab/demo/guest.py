# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM of the demo: a web server with a file system on one disk and a database on the other."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pitr.lab import Lab, LabDisk
from pitr.lab.host.filesystem import edit_ext4, make_ext4
from pitr.lab.host.guest import Guest
from pitr.system.process import run
from pitr.units import GIB, KIB, MIB

SYSTEM_SIZE = 1 * GIB
DATABASE_SIZE = 512 * MIB
#: The page that shows the web server's release.
WELCOME = "/srv/www/index.html"
_PAGE = 8 * KIB
_BLOCK = 4 * KIB
#: qemu frees whole clusters of a qcow2 image.
_CLUSTER = 64 * KIB
_CHUNK = 4 * MIB
_NOT_COPIED = shutil.ignore_patterns(
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "*.so", "*.a"
)


class WebServer:
    """A running VM whose disks change.

    Changing files needs a mount, and a mount needs root. So the demo changes a copy of the disk with debugfs, and
    then writes the differences to the VM's disk, as the guest's kernel would.
    """

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        self._folder = folder
        self._model = folder / "model.raw"
        make_ext4(self._model, SYSTEM_SIZE, _installation(folder / "files"))
        self.vm = lab.add_vm(name, description="The web server of the demo")
        self.system = self.vm.add_disk("system", SYSTEM_SIZE, content=self._model, bootable=True)
        self.database = self.vm.add_disk("database", DATABASE_SIZE)
        self.vm.start()
        with self.database.guest() as disk:
            for offset in range(0, 48 * MIB, _CHUNK):
                disk.write(offset, os.urandom(_CHUNK))

    @property
    def disks(self) -> tuple[LabDisk, LabDisk]:
        return self.system, self.database

    def deploy(self, release: int, *, uploads: int, remove: str) -> None:
        """Install a release: a new welcome page and `uploads` bytes of files; remove the package `remove`."""
        page, pictures = self._folder / "page", self._folder / "pictures"
        page.write_text(welcome(release))
        pictures.write_bytes(os.urandom(uploads))
        removed = sorted(path.name for path in (self._folder / "files/usr/lib/python" / remove).glob("*.py"))
        self._edit(
            f"rm {WELCOME}",
            f"write {page} {WELCOME}",
            f"write {pictures} /srv/www/pictures-{release}.bin",
            *(f"rm /usr/lib/python/{remove}/{name}" for name in removed),
        )

    def write_pages(self, first: int, count: int) -> None:
        """Write `count` database pages, scattered over the first 48 MiB; `first` decides which."""
        pages = 48 * MIB // _PAGE
        with self.database.guest() as disk:
            for number in range(first, first + count):
                disk.write(number * 997 % pages * _PAGE, os.urandom(_PAGE))
            disk.flush()

    def compact_database(self, offset: int, length: int) -> None:
        """Free a range of the database: write zeroes to the first half and discard the second."""
        half = length // 2
        with self.database.guest() as disk:
            disk.zero(offset, half, unmap=False)
            disk.discard(offset + half, length - half)
            disk.flush()

    def overwrite_everything(self) -> None:
        """Overwrite the beginning of both disks and the backup superblocks with random data."""
        for lab_disk in self.disks:
            with lab_disk.guest() as disk:
                for offset in range(0, lab_disk.size, 128 * MIB):
                    disk.write(offset, os.urandom(2 * MIB))
                disk.flush()

    def _edit(self, *commands: str) -> None:
        old = self._folder / "model.old"
        self._model.rename(old)
        run(["cp", "--sparse=always", str(old), str(self._model)])
        edit_ext4(self._model, commands)
        with self.system.guest() as disk:
            for offset, data in _changes(old, self._model):
                if any(data):
                    disk.write(offset, data)
                else:
                    _trim(disk, offset, offset + len(data))
            disk.flush()
        old.unlink()


def welcome(release: int) -> str:
    """Return the welcome page of a release."""
    return f"<h1>Welcome</h1><p>This is release {release}.</p>\n"


def _installation(folder: Path) -> Path:
    """Fill the folder with the files of a new web server: this machine's Python library and a page."""
    shutil.copytree(
        sysconfig.get_path("stdlib"), folder / "usr/lib/python", ignore=_NOT_COPIED, symlinks=True
    )
    page = folder / WELCOME.removeprefix("/")
    page.parent.mkdir(parents=True)
    page.write_text(welcome(1))
    return folder


def _changes(old: Path, new: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the ranges in which two images differ as (offset, new bytes), in whole blocks of zeroes or of data."""
    with old.open("rb") as old_file, new.open("rb") as new_file:
        offset = 0
        while chunk := new_file.read(_CHUNK):
            before = old_file.read(_CHUNK)
            if chunk != before:
                yield from ((offset + start, chunk[start:end]) for start, end in _runs(before, chunk))
            offset += len(chunk)


def _trim(disk: Guest, start: int, end: int) -> None:
    """Free a range so that it reads as zero. A discard of less than a cluster would keep the old bytes."""
    first, last = -(-start // _CLUSTER) * _CLUSTER, end // _CLUSTER * _CLUSTER
    if first >= last:
        disk.zero(start, end - start, unmap=True)
        return
    disk.discard(first, last - first)
    for edge_start, edge_end in ((start, first), (last, end)):
        if edge_start < edge_end:
            disk.zero(edge_start, edge_end - edge_start, unmap=True)


def _runs(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of blocks that differ. Each run is only zeroes or only data."""
    start, kind = 0, ""
    for offset in range(0, len(after), _BLOCK):
        block = after[offset : offset + _BLOCK]
        kind_if_changed = "data" if any(block) else "zero"
        next_kind = "" if block == before[offset : offset + _BLOCK] else kind_if_changed
        if next_kind != kind:
            if kind:
                yield start, offset
            start, kind = offset, next_kind
    if kind:
        yield start, len(after)
