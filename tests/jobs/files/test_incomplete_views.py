# SPDX-License-Identifier: GPL-2.0-or-later
"""A view without the changes in a journal is never a success, and libguestfs reads what pitr's own readers cannot."""

from __future__ import annotations

import stat
import struct
import sys
import textwrap
from pathlib import Path

import pytest
import zstandard

from pitr.guest import guestfish, partitions
from pitr.guest.filesystem import EntryKind
from pitr.guest.filesystem.ntfs import _holds_changes
from pitr.repository import Repository
from tests.support.guest_images import MiB, everything, make_image, mount, opened, run
from tests.support.pitr import Pitr
from tests.support.points_of_images import AT, store_states

_NESTED = Path(__file__).parents[2] / "guest" / "btrfs-nested-snapshot.qcow2.zst"

#: A guestfish with one file. It appends its command line to $ARGUMENTS.
_STUB = """\
#!{python}
import os, shlex, sys
with open(os.environ["ARGUMENTS"], "a") as file:
    file.write("\\n".join(sys.argv[1:]) + "\\n")
STAT = "st_dev: 1\\nst_ino: %d\\nst_mode: %d\\nst_nlink: 1\\nst_uid: 7\\nst_gid: 8\\nst_rdev: 0\\nst_size: %d\\n" \\
    "st_blksize: 1\\nst_blocks: 1\\nst_atime_sec: 0\\nst_atime_nsec: 0\\nst_mtime_sec: 5\\nst_mtime_nsec: 6\\n" \\
    "st_ctime_sec: 0\\nst_ctime_nsec: 0\\nst_spare1: 0"
for line in sys.stdin:
    command, *words = shlex.split(line.encode().decode("unicode_escape"))
    last = words[-1] if words else ""
    if command == "echo":
        print(last, flush=True)
    elif command == "-list-filesystems":
        print("/dev/sda: ext4")
    elif command == "-vfs-type":
        print("ext4")
    elif command == "-blockdev-getsize64":
        print(25165824)
    elif command == "-lstatns":
        if last.endswith("/replayed file"):
            print(STAT % (12, 0o100644, 5))
        else:
            print(STAT % (2, 0o040755, 4096))
    elif command == "-ls0":
        open(last, "wb").write(b"replayed file\\0gone\\0" if not words[0].endswith("empty") else b"")
    elif command == "-download-offset":
        open(words[1], "wb").write(b"hello"[int(words[2]):][:int(words[3])])
    elif command == "-mount-ro" and words[0] == "/dev/sdb":
        sys.stderr.write("*stdin*:1: libguestfs: error: mount_ro: wrong fs type\\n")
"""


@pytest.fixture
def dirty(repository: Repository, tmp_path: Path) -> bytes:
    """A point of an ext4 whose journal was not replayed."""
    make_image("ext4", tmp_path)
    path = tmp_path / "image0"
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    store_states(repository, [[path.read_bytes()]])
    return path.read_bytes()


@pytest.fixture
def libguestfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the stub; return the file with its command lines, one word on each line."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "guestfish"
    program.write_text(textwrap.dedent(_STUB.replace("{python}", sys.executable)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("ARGUMENTS", str(tmp_path / "arguments"))
    monkeypatch.setattr(guestfish, "is_installed", lambda: True)
    return tmp_path / "arguments"


def test_a_view_without_the_changes_in_the_journal_exits_with_3(
    dirty: bytes, command: Pitr, tmp_path: Path
) -> None:
    for arguments in (
        ("ls", "--at", AT[0], "/"),
        ("cat", "--at", AT[0], "/etc/hosts"),
        ("cp", "--at", AT[0], "/etc", tmp_path / "copy"),
        ("cp", "--at", AT[0], "/etc", tmp_path / "dry", "--dry-run"),
        ("diff", "--at", AT[0], "--since", AT[0], "/etc"),
    ):
        for reader in ((), ("--reader", "own")):
            shown = command(
                "files", *arguments, *reader, *(("--overwrite",) if arguments[0] == "cp" else ()), code=3
            )
            lines = [line for line in shown.stderr.splitlines() if "journal" in line]
            assert len(lines) == 1 and "guestfs" in lines[0]
    assert (tmp_path / "copy" / "etc" if (tmp_path / "copy" / "etc").exists() else tmp_path / "copy").is_dir()
    document = command.json("files", "ls", "--at", AT[0], "/", code=3)
    assert document["incomplete"] is True and document["entries"]
    (volume,) = command.json("files", "ls", "--at", AT[0])["volumes"]
    assert volume["incomplete"] is True and "journal" in volume["note"]


def test_an_xfs_with_a_dirty_log_exits_with_3(repository: Repository, command: Pitr, tmp_path: Path) -> None:
    path, mounted = tmp_path / "image", tmp_path / "mounted"
    run("truncate", "-s", "320M", path)
    run("mkfs.xfs", "-q", path)
    with mount(path, mounted):
        (mounted / "file").write_bytes(b"x")
        run("sync", "-f", mounted)
        image = path.read_bytes()
    store_states(repository, [[image]])
    assert "log" in command("files", "ls", "--at", AT[0], "/", code=3).stderr


def test_a_journal_of_ntfs_holds_changes_unless_it_is_closed() -> None:
    def page(number: int, in_use: int, flags: int) -> bytes:
        header = struct.pack("<4sHHQIIH", b"RSTR", 30, 9, 0, 4096, 4096, 48)
        return (header.ljust(48, b"\0") + struct.pack("<QHHHH", number, 1, 0, in_use, flags)).ljust(
            4096, b"\0"
        )

    assert not _holds_changes(b"\xff" * 8192)
    assert not _holds_changes(page(5, 0, 2) + page(4, 0, 0))
    assert _holds_changes(page(5, 0, 2) + page(6, 0, 0))
    assert not _holds_changes(page(5, 0, 2) + page(6, 0xFFFF, 0))


def test_libguestfs_replays_the_journal_where_it_is_installed(
    dirty: bytes, command: Pitr, libguestfs: Path, tmp_path: Path
) -> None:
    document = command.json("files", "ls", "--at", AT[0], "/")
    assert [entry["path"] for entry in document["entries"]] == ["/gone", "/replayed file"]
    assert document["incomplete"] is False
    words = libguestfs.read_text().splitlines()
    assert words[:2] == ["--ro", "--format=raw"] and words[2] == "-a"
    assert words[3].startswith("nbd:///33333333-0000-4000-8000-") or words[3].startswith("nbd:///")
    assert "?socket=/" in words[3] and words[3].endswith("/nbd")
    assert command("files", "cat", "--at", AT[0], "/replayed file").stdout == "hello"
    command("files", "cp", "--at", AT[0], "/replayed file", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "hello"
    own = command.json("files", "ls", "--at", AT[0], "/", "--reader", "own", code=3)
    assert "/etc" in [entry["path"] for entry in own["entries"]]


def test_libguestfs_reads_everything_on_demand(
    repository: Repository, command: Pitr, libguestfs: Path, tmp_path: Path
) -> None:
    image, _ = make_image("ext4", tmp_path)
    store_states(repository, [[image]])
    command("files", "ls", "--at", AT[0], "/")
    assert not libguestfs.exists()
    (volume,) = command.json("files", "ls", "--at", AT[0], "--reader", "guestfs")["volumes"]
    assert (volume["volume"], volume["content"], volume["readable"]) == ("0", "ext4", True)
    assert "hello" in command("files", "cat", "--at", AT[0], "/replayed file", "--reader", "guestfs").stdout


def test_without_libguestfs_one_line_names_it(dirty: bytes, command: Pitr) -> None:
    refused = command("files", "ls", "--at", AT[0], "/", "--reader", "guestfs", code=1)
    assert "guestfs" in refused.complaint


def test_a_file_system_that_pitr_cannot_read_names_libguestfs(repository: Repository, command: Pitr) -> None:
    store_states(repository, [[b"LUKS\xba\xbe".ljust(MiB, b"\0")]])
    assert "guestfs" in command("files", "ls", "--at", AT[0], "/", code=1).complaint


def test_a_nested_subvolume_is_an_empty_folder_in_a_snapshot(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    packed = tmp_path / "image.qcow2"
    packed.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(_NESTED.read_bytes()))
    run("qemu-img", "convert", "-O", "raw", packed, tmp_path / "image")
    image = (tmp_path / "image").read_bytes()
    found = everything(opened(image, "btrfs"))
    assert set(found) == {"@", "@/var", "@/var/inner.txt", "snap", "snap/var"}
    store_states(repository, [[image]])
    command("files", "cp", "--at", AT[0], "/", tmp_path / "copy")
    assert list((tmp_path / "copy" / "snap" / "var").iterdir()) == []
    assert (tmp_path / "copy" / "@" / "var" / "inner.txt").exists()


@pytest.mark.parametrize("backup_header", [False, True])
def test_a_gpt_with_sectors_of_4_kib(backup_header: bool, tmp_path: Path) -> None:
    disk = bytearray(8 * MiB)
    struct.pack_into("<4xB3xII", disk, 446, 0xEE, 1, 0xFFFFFFFF)
    disk[510:512] = b"\x55\xaa"
    last = len(disk) // 4096 - 1
    at, entries = (last, last - 4) if backup_header else (1, 2)
    struct.pack_into("<8s64xQII", disk, at * 4096, b"EFI PART", entries, 128, 128)
    struct.pack_into("<16s16sQQ", disk, entries * 4096, b"type", b"id", 256, 256 + 255)
    disk[MiB + 1080 : MiB + 1082] = b"\x53\xef"
    layout = partitions.look_at(lambda offset, length: bytes(disk[offset : offset + length]), len(disk))
    assert layout == partitions.Layout("gpt", (partitions.Partition(1, MiB, MiB, "ext"),))


def test_links_of_ntfs_are_links(repository: Repository, command: Pitr, tmp_path: Path) -> None:
    """Links as ntfs-3g and Interix write them."""
    path, mounted = tmp_path / "image", tmp_path / "mounted"
    run("truncate", "-s", "24M", path)
    run("mkntfs", "-q", "-F", path)
    mounted.mkdir()
    try:
        run("ntfs-3g", path, mounted)
    except Exception as error:  # noqa: BLE001 - no FUSE here
        pytest.skip(f"cannot mount here: {error}")
    try:
        (mounted / "users").mkdir()
        (mounted / "users" / "a.txt").write_text("hi")
        (mounted / "relative").symlink_to("users")
        (mounted / "users" / "up").symlink_to("../users/a.txt")
    finally:
        run("umount", mounted)
    image = path.read_bytes()
    found = everything(opened(image, "ntfs"))
    assert found["relative"][:2] == (EntryKind.LINK, "users")
    assert found["users/up"][:2] == (EntryKind.LINK, "../users/a.txt")
    store_states(repository, [[image]])
    assert command("files", "cat", "--at", AT[0], "/relative/up").stdout == "hi"
    command("files", "cp", "--at", AT[0], "/", tmp_path / "copy")
    assert (tmp_path / "copy" / "relative" / "up").read_text() == "hi"
