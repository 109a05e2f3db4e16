# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests' disks with real file systems, created by the file systems' own programs, without root."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.guest.filesystem import EntryKind, FileSystem, Node, VolumeFile, open_file_system
from pitr.guest.filesystem.volume import DiskRange

MiB = 1 << 20
_FOLDERS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
MTIME_NS = 1_234_567_890_123_456_789


def run(*command: str | Path, **environment: str) -> str:
    """Run a program. Skip the test when the program is not installed."""
    program = shutil.which(str(command[0]), path=_FOLDERS)
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [program, *(str(word) for word in command[1:])],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@contextmanager
def mount(image: Path, folder: Path, options: str = "loop") -> Iterator[None]:
    """Mount an image while the block runs. Skip the test when that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    folder.mkdir()
    try:
        run("mount", "-o", options, image, folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount here: {error.stderr}")
    try:
        yield
    finally:
        run("umount", folder)


def make_tree(folder: Path, *, state: int = 0) -> Path:
    """A guest's files. State 1 is the same guest a day later: some files are added, removed, changed."""
    chance = random.Random(1)
    for name in ("etc/nginx/conf.d", "var/log", "many"):
        (folder / name).mkdir(parents=True)

    def write(name: str, data: bytes) -> None:
        path = folder / name
        path.write_bytes(data)
        os.utime(path, ns=(MTIME_NS, MTIME_NS))

    write("etc/hosts", b"127.0.0.1 localhost\n")
    write("etc/nginx/nginx.conf", chance.randbytes(5000))
    write("etc/nginx/conf.d/ümlaut site.conf", chance.randbytes(100))
    write("empty", b"")
    write("var/log/big.log", chance.randbytes(1_333_333))
    for number in range(150):
        write(f"many/file number {number:03} with a name that is rather long.txt", b"%d\n" % number * number)
    if state:
        (folder / "empty").unlink()
        write("etc/hosts", b"127.0.0.1 localhost web1\n")
        write("etc/new", b"new\n")
        with (folder / "var/log/big.log").open("ab") as file:
            file.write(chance.randbytes(500_000))
    return folder


def add_unix_files(folder: Path) -> Path:
    """Add what only Unix file systems have: links, modes, holes."""
    (folder / "etc/link").symlink_to("hosts")
    (folder / "etc/absolute").symlink_to("/etc/nginx")
    (folder / "etc/long").symlink_to("x" * 300)
    (folder / "etc/hosts").chmod(0o4755)
    (folder / "etc/nginx").chmod(0o750)
    with (folder / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"middle" * 3000)
        # Behind the double indirect blocks of a file system with blocks of 1 KiB.
        file.seek(80_000_000)
        file.write(b"end")
    return folder


def _ext(*options: str) -> Callable[[Path, Path], None]:
    def make(image: Path, files: Path) -> None:
        run("truncate", "-s", "24M", image)
        run("mke2fs", "-q", "-F", "-L", "label", *options, "-d", files, image)

    return make


def _xfs(image: Path, files: Path) -> None:
    proto = image.with_suffix(".proto")
    lines = ["/", "0 0", "d--755 0 0"]

    def describe(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            mode = path.lstat().st_mode
            bits = f"{'u' if mode & 0o4000 else '-'}-{mode & 0o777:03o} 0 0"
            if path.is_symlink():
                lines.append(f"{path.name} l--777 0 0 {path.readlink()}")
            elif path.is_dir():
                lines.append(f"{path.name} d{bits}")
                describe(path)
                lines.append("$")
            elif " " not in path.name:
                lines.append(f"{path.name} -{bits} {path}")
            else:
                # The description file cannot hold names with spaces.
                plain = path.with_name(path.name.replace(" ", "_"))
                path.rename(plain)
                lines.append(f"{plain.name} -{bits} {plain}")

    # The program would write all its zeroes.
    (files / "sparse").unlink(missing_ok=True)
    describe(files)
    proto.write_text("\n".join([*lines, "$", "$", ""]))
    run("truncate", "-s", "32M", image)
    # mkfs.xfs creates one below 300 MiB only in its own test suite.
    own_tests = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
    run("mkfs.xfs", "-q", "-L", "label", "-p", proto, image, **own_tests)


def _btrfs(image: Path, files: Path) -> None:
    run("truncate", "-s", "112M", image)
    run("mkfs.btrfs", "-q", "-L", "label", "--rootdir", files, image)


def _fat(size: str, *options: str) -> Callable[[Path, Path], None]:
    def make(image: Path, files: Path) -> None:
        run("truncate", "-s", size, image)
        run("mkfs.vfat", "-n", "LABEL", *options, image)
        run("mcopy", "-m", "-s", "-i", image, *sorted(files.iterdir()), "::/", LC_ALL="C.UTF-8")

    return make


def below(folder: Path) -> list[Path]:
    """Return the paths in a folder and below. Links are not followed.

    Not rglob: before Python 3.11.4 it fails on a link whose target is longer than a path may be.
    """
    return sorted(Path(at) / name for at, folders, files in os.walk(folder) for name in [*folders, *files])


def _ntfs(image: Path, files: Path) -> None:
    run("truncate", "-s", "24M", image)
    run("mkntfs", "-q", "-F", "-L", "label", image)
    # ntfscp copies files one by one into existing folders, and only the root exists.
    for path in below(files):
        if path.is_file():
            run("ntfscp", "-q", "-f", image, path, path.name)
    for path in below(files)[::-1]:
        if path.is_file() and path.parent != files:
            path.rename(files / path.name)
        elif path.is_dir():
            path.rmdir()


#: To what makes an image of them with these files; the files are then as the image has them.
MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "ext4": _ext("-t", "ext4"),
    "ext4 with inline data": _ext("-t", "ext4", "-O", "inline_data", "-I", "256"),
    "ext3": _ext("-t", "ext3", "-b", "1024"),
    "ext2": _ext("-t", "ext2", "-b", "1024"),
    "xfs": _xfs,
    "btrfs": _btrfs,
    "ntfs": _ntfs,
    "fat12": _fat("4M", "-F", "12"),
    "fat16": _fat("24M", "-F", "16"),
    "fat32": _fat("48M", "-F", "32"),
}
UNIX = ("ext4", "ext4 with inline data", "ext3", "ext2", "xfs", "btrfs")
#: The names of `pitr.guest.partitions`.
RECOGNIZED = {name: "ext" if "ext" in name else "fat" if "fat" in name else name for name in MAKERS}


def make_image(name: str, folder: Path, *, state: int = 0) -> tuple[bytes, Path]:
    """Create an image with this file system and these files."""
    files = make_tree(folder / f"files{state}", state=state)
    if name in UNIX:
        add_unix_files(files)
    image = folder / f"image{state}"
    MAKERS[name](image, files)
    return image.read_bytes(), files


def partitioned(*parts: tuple[int, bytes]) -> bytes:
    """Return a disk with an MBR and these partitions (type, content), each of whole MiB, the first at 1 MiB."""
    table, at, disk = bytearray(512), 1, bytearray(MiB)
    for number, (kind, content) in enumerate(parts):
        size = -(-len(content) // MiB)
        struct.pack_into("<4xB3xII", table, 446 + 16 * number, kind, at * 2048, size * 2048)
        disk += content.ljust(size * MiB, b"\0")
        at += size
    table[510:] = b"\x55\xaa"
    disk[:512] = table
    return bytes(disk)


def opened(image: bytes, content: str, changes: Sequence[tuple[int, bytes]] = ()) -> FileSystem:
    """Open the file system of an image, without a repository. `changes` are bytes to overwrite in it."""

    def read(offset: int, length: int) -> bytes:
        data = image[offset : offset + length]
        for at, changed in changes:
            start, end = max(at, offset), min(at + len(changed), offset + len(data))
            if start < end:
                data = data[: start - offset] + changed[start - at : end - at] + data[end - offset :]
        return data

    return open_file_system(VolumeFile([DiskRange(len(image), read, 0)]), content, "volume 0")


def content_of(file_system: FileSystem, node: Node) -> bytes:
    content = file_system.content(node)
    data = bytearray(content.size)
    for offset, piece in file_system.pieces(content):
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def everything(file_system: FileSystem) -> dict[str, tuple[EntryKind, bytes | str, Node]]:
    """Return all files below the root by path, with their bytes or target."""
    found: dict[str, tuple[EntryKind, bytes | str, Node]] = {}

    def walk(folder: Node, path: str) -> None:
        for entry in file_system.entries(folder):
            assert entry.node is not None, entry
            inner, node = f"{path}{entry.name}", entry.node
            assert inner not in found
            held: bytes | str = b""
            if node.kind is EntryKind.FILE:
                held = content_of(file_system, node)
            elif node.kind is EntryKind.LINK:
                held = file_system.target(node)
            found[inner] = (node.kind, held, node)
            if node.kind is EntryKind.FOLDER:
                walk(node, f"{inner}/")

    walk(file_system.root(), "")
    return found
