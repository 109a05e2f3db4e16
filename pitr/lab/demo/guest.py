# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of the demo: a web server with a file system on its first disk and a database on its second."""

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
#: The page that tells which release the web server serves.
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
    """A running VM, and what happens in it.

    A file system can only be changed by who mounts it, and mounting needs root. So the guest's changes are made with
    debugfs to a model of its disk, and what is different afterwards is written to the disk as a kernel would do it.
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
        """Put a release online: a new welcome page, `uploads` bytes of files; the package `remove` goes."""
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
        """Free a range of the database: its first half by zeroes that stay allocated, the rest by a discard."""
        half = length // 2
        with self.database.guest() as disk:
            disk.zero(offset, half, unmap=False)
            disk.discard(offset + half, length - half)
            disk.flush()

    def overwrite_everything(self) -> None:
        """The disaster: garbage over the beginning of both disks, and over the backup superblocks."""
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
    """What the welcome page of a release says."""
    return f"<h1>Welcome</h1><p>This is release {release}.</p>\n"


def _installation(folder: Path) -> Path:
    """A folder with the files of a fresh web server: the Python library of this machine and a page."""
    shutil.copytree(
        sysconfig.get_path("stdlib"), folder / "usr/lib/python", ignore=_NOT_COPIED, symlinks=True
    )
    page = folder / WELCOME.removeprefix("/")
    page.parent.mkdir(parents=True)
    page.write_text(welcome(1))
    return folder


def _changes(old: Path, new: Path) -> Iterator[tuple[int, bytes]]:
    """The ranges in which two images differ, (offset, new bytes): whole blocks, either all zero or with data."""
    with old.open("rb") as old_file, new.open("rb") as new_file:
        offset = 0
        while chunk := new_file.read(_CHUNK):
            before = old_file.read(_CHUNK)
            if chunk != before:
                yield from ((offset + start, chunk[start:end]) for start, end in _runs(before, chunk))
            offset += len(chunk)


def _trim(disk: Guest, start: int, end: int) -> None:
    """Free a range so that it reads as zero: a discard of less than a cluster would leave the old bytes."""
    first, last = -(-start // _CLUSTER) * _CLUSTER, end // _CLUSTER * _CLUSTER
    if first >= last:
        disk.zero(start, end - start, unmap=True)
        return
    disk.discard(first, last - first)
    for edge_start, edge_end in ((start, first), (last, end)):
        if edge_start < edge_end:
            disk.zero(edge_start, edge_end - edge_start, unmap=True)


def _runs(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """The runs of blocks that differ; a run is of one kind, zero or data."""
    start, kind = 0, ""
    for offset in range(0, len(after), _BLOCK):
        block = after[offset : offset + _BLOCK]
        kind_if_changed = "data" if any(block) else "zero"
        found = "" if block == before[offset : offset + _BLOCK] else kind_if_changed
        if found != kind:
            if kind:
                yield start, offset
            start, kind = offset, found
    if kind:
        yield start, len(after)
