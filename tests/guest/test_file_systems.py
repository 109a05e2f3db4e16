# SPDX-License-Identifier: GPL-2.0-or-later
"""pitr reads from each supported file system exactly what the file system's own program has written."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from pitr.errors import FileSystemError, NoSuchFile
from pitr.guest import partitions
from pitr.guest.filesystem import EntryKind
from pitr.guest.filesystem.base import kind_of
from pitr.guest.filesystem.ext import Ext
from pitr.guest.filesystem.paths import look_up
from pitr.guest.filesystem.xfs import Xfs
from tests.support.guest_images import (
    MAKERS,
    MTIME_NS,
    RECOGNIZED,
    UNIX,
    below,
    content_of,
    everything,
    make_image,
    mount,
    opened,
    run,
)

#: Created by the file systems themselves.
_OWN = {"lost+found"}


@pytest.mark.parametrize("name", MAKERS)
def test_all_files_are_there_with_all_their_bytes(name: str, tmp_path: Path) -> None:
    image, files = make_image(name, tmp_path)
    assert partitions.content_of(lambda at, length: image[at : at + length], len(image)) == RECOGNIZED[name]
    file_system = opened(image, RECOGNIZED[name])
    assert file_system.label.casefold() == "label" and file_system.note is None
    assert file_system.kind == name.partition(" ")[0]
    found = {path: what for path, what in everything(file_system).items() if path not in _OWN}
    expected = {str(path.relative_to(files)): path for path in below(files)}
    assert found.keys() == expected.keys() and len(found) > 150
    for path, (kind, held, node) in found.items():
        original = expected[path]
        status = original.lstat()
        if original.is_symlink():
            assert (kind, held) == (EntryKind.LINK, str(original.readlink())), path
        elif original.is_dir():
            assert kind is EntryKind.FOLDER, path
        else:
            assert (kind, node.size) == (EntryKind.FILE, status.st_size), path
            assert held == original.read_bytes(), path
        if name in UNIX:
            assert node.mode == status.st_mode & 0o7777, path
        if name.startswith(("ext", "btrfs")) and kind is EntryKind.FILE:
            # The mkfs programs store whole seconds only.
            assert node.mtime_ns // 10**9 == status.st_mtime_ns // 10**9, path
        if name.startswith("fat") and original.stat().st_size and kind is EntryKind.FILE:
            assert abs(node.mtime_ns - MTIME_NS) < 24 * 3600 * 10**9, path


@pytest.mark.parametrize("name", ["ext4", "ext3", "ext2"])
def test_holes_are_holes(name: str, tmp_path: Path) -> None:
    image, _ = make_image(name, tmp_path)
    file_system = opened(image, "ext")
    content = file_system.content(look_up(file_system, "/sparse"))
    assert content.size == 80_000_003
    assert sum(length for _, length in content.data) < 40_000


def test_links_are_followed_as_the_guest_would_and_not_out_of_it(tmp_path: Path) -> None:
    image, files = make_image("ext4", tmp_path)
    file_system = opened(image, "ext")
    hosts = (files / "etc/hosts").read_bytes()
    for path in ("/etc/link", "/etc/../etc/./hosts", "//etc//hosts", "/../../etc/hosts"):
        assert content_of(file_system, look_up(file_system, path)) == hosts
    assert look_up(file_system, "/etc/absolute").kind is EntryKind.FOLDER
    assert look_up(file_system, "/etc/absolute/nginx.conf").kind is EntryKind.FILE
    assert look_up(file_system, "/etc/absolute", follow=False).kind is EntryKind.LINK
    for path in ("/etc/none", "/etc/hosts/x", "/etc/long"):
        with pytest.raises(NoSuchFile):
            look_up(file_system, path)


def test_names_of_fat_and_ntfs_have_no_case(tmp_path: Path) -> None:
    image, files = make_image("fat16", tmp_path)
    file_system = opened(image, "fat")
    node = look_up(file_system, "/ETC/Nginx/NGINX.conf")
    assert content_of(file_system, node) == (files / "etc/nginx/nginx.conf").read_bytes()


def test_a_chain_of_clusters_that_goes_backwards(tmp_path: Path) -> None:
    """dissect.fat takes cluster n after n + 1 for an adjacent one."""
    (tmp_path / "file").write_bytes(b"A" * 2048 + b"B" * 2048)
    path = tmp_path / "image"
    run("truncate", "-s", "24M", path)
    run("mkfs.vfat", "-F", "16", "-s", "4", path)
    run("mcopy", "-i", path, tmp_path / "file", "::/")
    image = bytearray(path.read_bytes())
    file_system = opened(bytes(image), "fat")
    (entry,) = file_system.entries(file_system.root())
    assert entry.node is not None
    first = int(entry.node.handle.cluster)
    reserved, copies = struct.unpack_from("<HB", image, 14)
    (table_size,) = struct.unpack_from("<H", image, 22)
    for copy in range(copies):
        table = (reserved + copy * table_size) * 512
        assert struct.unpack_from("<HH", image, table + 2 * first) == (first + 1, 0xFFFF)
        struct.pack_into("<HH", image, table + 2 * first, 0xFFFF, first)
    at = image.index(b"FILE       ")
    struct.pack_into("<H", image, at + 26, first + 1)
    file_system = opened(bytes(image), "fat")
    (entry,) = file_system.entries(file_system.root())
    assert entry.node is not None
    assert content_of(file_system, entry.node) == b"B" * 2048 + b"A" * 2048


def test_a_journal_that_was_not_replayed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_image("ext4", tmp_path)
    (tmp_path / "image0").rename(path)
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    assert "in use" in str(opened(path.read_bytes(), "ext").note)


@pytest.mark.parametrize(("old", "size"), [("ext2", 128), ("ext4", 256)])
def test_inodes_are_read_as_the_library_reads_them(old: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    run("truncate", "-s", "8M", path)
    run("mke2fs", "-q", "-F", "-t", old, "-I", str(size), path)
    chance = random.Random(size)
    for _ in range(40):
        raw = chance.randbytes(size)
        # The root folder has the second inode of the table.
        clean = opened(path.read_bytes(), "ext")
        assert isinstance(clean, Ext)
        table = clean._fs._read_group_desc(0).bg_inode_table_lo * clean._block
        file_system = opened(path.read_bytes(), "ext", [(table + size, raw)])
        assert isinstance(file_system, Ext)
        node = file_system.root()
        inode = node.handle.inode
        early = inode.i_mtime & 1 << 31
        assert (node.mode, node.uid, node.gid) == (
            inode.i_mode & 0o7777,
            inode.i_uid | inode.i_uid_high << 16,
            inode.i_gid | inode.i_gid_high << 16,
        )
        assert node.mtime_ns == node.handle.mtime_ns - (early and 1 << 32) * 10**9
        assert node.kind is kind_of(inode.i_mode)
        assert node.size == (node.handle.size if node.kind in (EntryKind.FILE, EntryKind.LINK) else 0)
        assert (node.unreadable is not None) == bool(inode.i_flags & 0x800)


def test_inodes_of_xfs_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    image, _ = make_image("xfs", tmp_path)
    clean = opened(image, "xfs")
    assert isinstance(clean, Xfs)
    root, size = clean._root(), int(clean._fs.sb.sb_inodesize)
    at = root.relative_inum * size
    assert image[at : at + 2] == b"IN"
    chance = random.Random(5)
    for _ in range(40):
        raw = b"IN" + chance.randbytes(2) + bytes([chance.choice([2, 3])]) + chance.randbytes(size - 5)
        file_system = opened(image, "xfs", [(at, raw)])
        node = file_system.root()
        inode = node.handle.inode
        assert (node.mode, node.uid, node.gid) == (inode.di_mode & 0o7777, inode.di_uid, inode.di_gid)
        early = not node.handle._has_bigtime() and inode.di_mtime >> 63
        assert node.mtime_ns == node.handle.mtime_ns - (early << 32) * 10**9
        assert node.kind is kind_of(inode.di_mode)
        assert node.size == (inode.di_size if node.kind in (EntryKind.FILE, EntryKind.LINK) else 0)
        assert (node.unreadable is not None) == (node.kind is EntryKind.FILE and bool(inode.di_flags & 1))
    with pytest.raises(FileSystemError, match="magic"):
        opened(image, "xfs", [(at, b"no")]).root()


@pytest.mark.parametrize("feature", ["bigalloc", "meta_bg,^resize_inode"])
def test_features_that_would_be_read_wrongly_are_refused(feature: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    run("truncate", "-s", "24M", path)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", feature, path)
    with pytest.raises(FileSystemError, match="features that pitr does not support"):
        opened(path.read_bytes(), "ext")


@pytest.mark.parametrize(
    ("name", "at", "new", "why"),
    [
        ("xfs", 218, b"\x01", "features that pitr does not support .0x100."),
        ("btrfs", 0x10000 + 0xBD, b"\x33", "features that pitr does not support .0x3000."),
        ("btrfs", 0x10000 + 0x88, b"\x02", "spans 2 devices"),
    ],
)
def test_superblocks_with_features_of_the_future_are_refused(
    name: str, at: int, new: bytes, why: str, tmp_path: Path
) -> None:
    image, _ = make_image(name, tmp_path)
    with pytest.raises(FileSystemError, match=why):
        opened(image, name, [(at, new)])


def test_an_xfs_log_that_was_not_replayed_is_told(tmp_path: Path) -> None:
    """Live, frozen, live again after the log has wrapped, and unmounted. Only a mounted XFS writes its log."""
    path, mounted = tmp_path / "image", tmp_path / "mounted"
    run("truncate", "-s", "96M", path)
    own_tests = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
    run("mkfs.xfs", "-q", "-l", "size=8m", path, **own_tests)
    notes = [opened(path.read_bytes(), "xfs").note]

    def look() -> None:
        os.sync()
        notes.append(opened(path.read_bytes(), "xfs").note)

    with mount(path, mounted):
        (mounted / "file").write_bytes(b"x")
        look()
        run("fsfreeze", "-f", mounted)
        try:
            notes.append(opened(path.read_bytes(), "xfs").note)
        finally:
            run("fsfreeze", "-u", mounted)
        for number in range(25_000):
            (mounted / f"{number} {'n' * 150}").touch()
        look()
    look()
    assert [note is not None for note in notes] == [False, True, False, True, False]
    assert "log holds changes" in str(notes[1])


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
def test_as_the_kernel_reads_what_the_kernel_wrote(kind: str, tmp_path: Path) -> None:
    """Fragments, unwritten blocks, compression, subvolumes: only a mounted file system creates them."""
    path, mounted = tmp_path / "image", tmp_path / "mounted"
    run("truncate", "-s", "320M" if kind == "xfs" else "128M", path)
    run(f"mkfs.{kind}", "-q", path)
    with mount(path, mounted, "loop,compress=zstd" if kind == "btrfs" else "loop"):
        chance = os.urandom(4096)
        with (mounted / "fragments").open("wb") as file:
            for number in range(700):
                file.seek(number * 12288)
                file.write(chance[number:])
        (mounted / "many").mkdir()
        for number in range(3000):
            (mounted / "many" / f"{number} {'n' * (number % 100)}").write_bytes(b"x" * (number % 7))
        run("fallocate", "-l", "300k", mounted / "allocated")
        (mounted / "text").write_bytes(b"".join(b"line %d\n" % number for number in range(90_000)))
        if kind == "btrfs":
            run("btrfs", "subvolume", "create", mounted / "inner")
            run("btrfs", "property", "set", mounted / "inner", "compression", "lzo")
            (mounted / "inner" / "lzo").write_bytes((mounted / "text").read_bytes())
        os.sync()
        expected = {
            str(one.relative_to(mounted)): (
                one.read_bytes() if one.is_file() else b"",
                one.stat().st_mtime_ns,
            )
            for one in below(mounted)
        }
    found = everything(opened(path.read_bytes(), "ext" if kind == "ext4" else kind))
    assert {name: (held, node.mtime_ns) for name, (_, held, node) in found.items()} == expected
