# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files ls|cp|cat|diff` on points that are stored in several streams."""

from __future__ import annotations

import io
import os
import resource
import signal
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pitr.model import Backup
from pitr.repository import Repository
from tests.support.guest_images import MTIME_NS, MiB, below, make_image, partitioned, run
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit
from tests.support.points_of_images import AT, store_states


@pytest.fixture
def guest(repository: Repository, tmp_path: Path) -> tuple[list[Backup], list[Path]]:
    """Two points of a guest: swap and ext4 on its first disk, a FAT on its second. And the content of its files."""
    images, files = zip(*(make_image("ext4", tmp_path, state=state) for state in (0, 1)), strict=True)
    (tmp_path / "other").mkdir()
    other, _ = make_image("fat12", tmp_path / "other")
    swap = bytes(4086) + b"SWAPSPACE2"
    states = [[partitioned((0x82, swap), (0x83, image)), other] for image in images]
    return store_states(repository, states), list(files)


def same_files(copy: Path, original: Path) -> None:
    """The content of a folder: names, bytes, link targets, modes without set-uid, times in whole seconds."""
    assert {path.relative_to(copy) for path in below(copy)} == {
        path.relative_to(original) for path in below(original)
    }
    for path in below(copy):
        other = original / path.relative_to(copy)
        status, expected = path.lstat(), other.lstat()
        if path.is_symlink():
            assert path.readlink() == other.readlink()
            continue
        assert status.st_mode == expected.st_mode & ~0o7000, path
        if path.is_file():
            assert path.read_bytes() == other.read_bytes(), path
            assert int(status.st_mtime) == int(expected.st_mtime), path


def outside(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in below(folder) if not path.is_symlink() and path.is_file()
    }


def test_volumes_are_listed_with_what_they_hold(guest: Any, command: Pitr) -> None:
    document = command.json("files", "ls", "web", "--at", AT[0])
    found = [
        (one["disk_name"], one["volume"], one["content"], one["readable"]) for one in document["volumes"]
    ]
    assert found == [
        ("disk0", "1", "swap", False),
        ("disk0", "2", "ext4", True),
        ("disk1", "0", "fat12", True),
    ]
    shown = command("files", "ls", "--at", AT[0]).stdout
    assert "swap is not supported" in shown and "0 (whole disk)" in shown and "label" in shown
    only = command.json("files", "ls", "--at", AT[0], "--disk", "disk1")["volumes"]
    assert [one["volume"] for one in only] == ["0"]


def test_a_folder_is_listed(guest: Any, command: Pitr) -> None:
    shown = command("files", "ls", "web", "--at", AT[0], "/etc", "--volume", "2")
    assert "the point of 2020-06-29 22:00:00 UTC" in shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["-rwsr-xr-x", "0:0", "20", "2009-02-13", "23:31:30", "UTC", "hosts"] in lines
    assert ["link", "->", "hosts"] in [line[-3:] for line in lines]
    document = command.json("files", "ls", "--at", AT[0], "--disk", "disk0", "/etc")
    assert document["volume"] == "2" and document["path"] == "/etc"
    entries = {one["path"]: one for one in document["entries"]}
    assert entries["/etc/hosts"]["size"] == 20 and entries["/etc/hosts"]["mode"] == "4755"
    assert entries["/etc/hosts"]["mtime"] == "2009-02-13T23:31:30Z"
    assert (entries["/etc/absolute"]["kind"], entries["/etc/absolute"]["target"]) == ("link", "/etc/nginx")
    deep = command.json("files", "ls", "--at", AT[0], "--volume", "2", "-R", "/etc")["entries"]
    assert "/etc/nginx/conf.d/ümlaut site.conf" in {one["path"] for one in deep}
    (one,) = command.json("files", "ls", "--at", AT[0], "--volume", "2", "/etc/link")["entries"]
    assert one["kind"] == "file" and one["size"] == 20


def test_what_is_asked_for_must_be_clear(guest: Any, command: Pitr, tmp_path: Path) -> None:
    at = ("--at", AT[0])
    assert "several volumes have /etc" in command("files", "ls", *at, "/etc", code=2).complaint
    assert "there is no /nowhere" in command("files", "ls", *at, "/nowhere", code=4).complaint
    assert "there is no volume '9'" in command("files", "ls", *at, "/", "--volume", "9", code=4).complaint
    assert "swap is not supported" in command("files", "ls", *at, "/", "--volume", "1", code=1).complaint
    assert "needs --at or --point" in command("files", "ls", "/etc", code=2).complaint
    assert "begin with /" in command("files", "ls", *at, "web", "etc", code=2).complaint
    assert "is a folder" in command("files", "cat", *at, "--volume", "2", "/etc", code=2).complaint
    command("files", "ls", *at, "nosuch", "/etc", code=4)
    command("files", "ls", "--at", "2020-01-01T00:00Z", "/etc", code=4)
    command("files", "cp", *at, "/etc", code=2)
    command("files", "cp", *at, "web", "here", code=2)
    command("files", "diff", *at, "/etc", code=2)
    command("files", "diff", *at, "--since", "yesterday", code=2)
    nowhere = tmp_path / "none" / "x"
    command("files", "cp", *at, "--volume", "2", "/etc", nowhere, code=2)
    assert not nowhere.parent.exists()


@pytest.mark.parametrize("state", [0, 1])
def test_everything_is_copied(guest: Any, command: Pitr, tmp_path: Path, state: int) -> None:
    copy = tmp_path / "copy"
    document = command.json("files", "cp", "web", "--at", AT[state], "--volume", "2", "/", f"{copy}/")
    assert document["left_out"] == [] and document["links"] == 3
    (copy / "lost+found").rmdir()
    same_files(copy, guest[1][state])
    sparse = (copy / "sparse").stat()
    assert sparse.st_size == 80_000_003 and sparse.st_blocks * 512 < MiB
    assert document["size"] - document["bytes"] > 79_000_000


def test_copies_go_where_cp_would_put_them(guest: Any, command: Pitr, tmp_path: Path) -> None:
    def cp(*words: str | Path, code: int = 0) -> Any:
        return command.json("files", "cp", "--at", AT[0], "--volume", "2", *words, code=code)

    cp("/etc/hosts", tmp_path / "renamed")
    assert (tmp_path / "renamed").read_bytes() == b"127.0.0.1 localhost\n"
    assert (tmp_path / "renamed").stat().st_mtime_ns // 10**9 == MTIME_NS // 10**9
    cp("/etc/nginx", tmp_path / "renamed2")
    same_files(tmp_path / "renamed2", guest[1][0] / "etc/nginx")
    (tmp_path / "there").mkdir()
    cp("/etc/nginx", tmp_path / "there")
    same_files(tmp_path / "there/nginx", guest[1][0] / "etc/nginx")
    cp("/etc/hosts", "/empty", tmp_path / "two")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"hosts", "empty"}
    cp("/etc/link", tmp_path / "link")
    assert str((tmp_path / "link").readlink()) == "hosts"


def test_nothing_is_written_over_unless_asked_for(guest: Any, command: Pitr, tmp_path: Path) -> None:
    at = ("--at", AT[0], "--volume", "2")
    mine = tmp_path / "mine"
    (mine / "etc/nginx").mkdir(parents=True)
    (mine / "etc/hosts").write_bytes(b"mine")
    (mine / "other").write_bytes(b"mine too")
    document = command.json("files", "cp", *at, "/etc", mine, code=1)
    assert [(one["path"], one["failed"]) for one in document["left_out"]] == [("/etc/hosts", True)]
    assert (mine / "etc/hosts").read_bytes() == b"mine" and (mine / "etc/nginx/nginx.conf").is_file()
    assert "exists already" in command("files", "cp", *at, "/empty", mine / "other", code=2).complaint
    command("files", "cp", *at, "/many", mine)
    again = command("files", "cp", *at, "/many", mine, code=1)
    assert "and 130 more" in again.stderr and len(again.stderr.splitlines()) < 25
    command("files", "cp", *at, "/etc", mine, "--overwrite")
    assert (mine / "etc/hosts").read_bytes() == b"127.0.0.1 localhost\n"
    assert (mine / "other").read_bytes() == b"mine too"
    assert not [path for path in below(mine) if path.name.startswith(".pitr-")]


def test_a_file_that_cannot_be_finished_leaves_nothing_and_spoils_no_other(
    guest: Any, command: Pitr, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MiB, before[1]))
    try:
        document = command.json(
            "files", "cp", "--at", AT[0], "--volume", "2", "/var", "/etc", tmp_path / "copy/", code=1
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(one["path"], one["reason"]) for one in document["left_out"]] == [
        ("/var/log/big.log", "File too large")
    ]
    assert list((tmp_path / "copy/var/log").iterdir()) == [] and document["files"] == 3


def test_a_dry_run_writes_nothing(guest: Any, command: Pitr, tmp_path: Path) -> None:
    planned = command.json(
        "files", "cp", "--at", AT[1], "--volume", "2", "/etc", "/sparse", tmp_path / "x/", "--dry-run"
    )
    assert not (tmp_path / "x").exists()
    done = command.json("files", "cp", "--at", AT[1], "--volume", "2", "/etc", "/sparse", tmp_path / "x/")
    for key in ("files", "folders", "links", "bytes", "size", "left_out"):
        assert planned[key] == done[key], key
    assert done["files"] == 5 and (planned["dry_run"], done["dry_run"]) == (True, False)


def test_a_file_is_printed(guest: Any, repository: Repository) -> None:
    for state, path in ((0, "/etc/link"), (1, "/var/log/big.log"), (1, "/sparse")):
        words = ["files", "cat", "web", "--at", AT[state], "--disk", "disk0", path]
        done = subprocess.run(
            [sys.executable, "-m", "pitr", *words],
            env={**os.environ, "PITR_REPO": str(repository.path)},
            capture_output=True,
            check=True,
        )
        assert done.stdout == (guest[1][state] / path.replace("link", "hosts")[1:]).read_bytes()


def test_a_full_pipe_that_closes_is_no_defect(guest: Any, repository: Repository) -> None:
    words = ["files", "cat", "--at", AT[1], "--disk", "disk0", "/sparse"]
    with subprocess.Popen(
        [sys.executable, "-m", "pitr", *words],
        env={**os.environ, "PITR_REPO": str(repository.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(5) == bytes(5)
        process.stdout.close()
        complaint = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE and b"defect" not in complaint


@pytest.mark.parametrize("content", [False, True])
def test_differences_between_two_points(guest: Any, command: Pitr, content: bool) -> None:
    options = ["--disk", "disk0", *(["--content"] if content else [])]
    document = command.json("files", "diff", "web", "--at", AT[1], "--since", AT[0], *options)
    found = {one["path"]: (one["change"], one["what"]) for one in document["changes"]}
    # Each image creates its folders and links anew, so their times differ.
    found = {path: what for path, what in found.items() if what[1] != ["time"]}
    assert found == {
        "/empty": ("D", []),
        "/etc/hosts": ("M", ["size"]),
        "/etc/new": ("A", []),
        "/var/log/big.log": ("M", ["size", "time"]),
    }
    back = command.json("files", "diff", "--at", AT[0], "--since", AT[1], "--disk", "disk0", "/etc/new")
    assert [(one["change"], one["path"]) for one in back["changes"]] == [("D", "/etc/new")]
    shown = command(
        "files", "diff", "--at", AT[1], "--since", guest[0][0].backup_id[:8], "--disk", "disk0", "/etc"
    )
    assert "M  /etc/hosts  (size)\n" in shown.stdout and "A  /etc/new\n" in shown.stdout
    command(
        "files", "diff", "--at", AT[1], "--since", AT[0], "--disk", "disk0", "/etc", "--exit-code", code=1
    )
    none = command("files", "diff", "--at", AT[1], "--since", AT[1], "--disk", "disk0", "--exit-code")
    assert none.stdout == ""
    command("files", "diff", "--at", AT[1], "--since", AT[0], "--disk", "disk0", "/none", code=4)


def test_only_content_finds_bytes_that_changed_and_nothing_else(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    image, _ = make_image("ext4", tmp_path)
    at = image.index(b"middle" * 100) + 4000
    changed = image[:at] + b"M" + image[at + 1 :]
    store_states(repository, [[image], [changed]])
    between = ("--at", AT[1], "--since", AT[0])
    assert command.json("files", "diff", *between)["changes"] == []
    (one,) = command.json("files", "diff", *between, "--content")["changes"]
    assert (one["path"], one["change"], one["what"]) == ("/sparse", "M", ["content"])


def test_content_that_lies_where_nothing_changed_is_not_read_for_a_comparison(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    image, files = make_image("ext4", tmp_path)
    changed = image.replace(b"localhost", b"elsewhere")
    assert changed != image
    backups = store_states(repository, [[image], [changed]])
    log = (files / "var/log/big.log").read_bytes()
    _spoil_frame_with(repository, backups[0], log[700_000:700_100], command)
    where = ("--at", AT[1])
    command("files", "cp", *where, "/var/log/big.log", tmp_path / "copy", code=3)
    changes = command.json("files", "diff", *where, "--since", AT[0], "--content")["changes"]
    assert [(one["path"], one["what"]) for one in changes] == [("/etc/hosts", ["content"])]


def _spoil_frame_with(repository: Repository, backup: Backup, data: bytes, command: Pitr) -> None:
    """Change a stored bit of the frame of the first disk that holds these bytes."""
    raw = repository.path.parent / "raw"
    command("restore", "--point", backup.backup_id, "--disk", "disk0", "--to-file", raw)
    at = raw.read_bytes().index(data)
    with repository.open_index(backup, backup.streams[0]) as index:
        row = next(row for row in index.rows() if row.start <= at < row.start + row.length)
    assert row.blob_offset is not None and row.blob_length is not None
    flip_bit(blob_path(repository, backup.streams[0]), row.blob_offset + row.blob_length // 2)


def test_devices_set_uid_and_names_for_terminals(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    make_image("ext4", tmp_path)
    path = tmp_path / "image0"
    commands = tmp_path / "commands"
    commands.write_text("cd etc\nmknod sda b 8 0\nmknod pipe p\nsif hosts mode 0107777\n")
    run("debugfs", "-w", "-f", commands, path)
    image = path.read_bytes().replace(b"nginx.conf", b"\x1b]0;x\x07\n.cc")
    store_states(repository, [[image]])
    listed = command("files", "ls", "--at", AT[0], "/etc")
    assert "\x1b" not in listed.stdout
    names = {one["path"] for one in command.json("files", "ls", "--at", AT[0], "/etc/nginx")["entries"]}
    assert "/etc/nginx/\x1b]0;x\x07\n.cc" in names
    assert "\x1b" not in command("files", "ls", "--at", AT[0], "/etc/nginx").stdout
    copied = command("files", "cp", "--at", AT[0], "/etc", tmp_path / "copy")
    assert "left out: /etc/sda: a device is not copied" in copied.stderr
    assert not (tmp_path / "copy/sda").exists() and not (tmp_path / "copy/pipe").exists()
    assert stat.S_IMODE((tmp_path / "copy/hosts").stat().st_mode) == 0o777


def test_a_damaged_frame_is_exit_3_and_spoils_no_other_file(
    guest: Any, repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    backups, files = guest
    _spoil_frame_with(
        repository, backups[0], (files[0] / "var/log/big.log").read_bytes()[600_000:600_100], command
    )
    where = ("--at", AT[0], "--disk", "disk0")
    copy = tmp_path / "copy"
    document = command.json("files", "cp", *where, "/", f"{copy}/", code=3)
    lost = {one["path"] for one in document["left_out"] if one["damage"]}
    assert "/var/log/big.log" in lost and document["files"] > 100
    assert not (copy / "var/log/big.log").exists()
    assert not [path for path in below(copy) if path.name.startswith(".pitr-")]
    assert (copy / "etc/hosts").read_bytes() == (files[0] / "etc/hosts").read_bytes()
    assert "frame of disk" in command("files", "cat", *where, "/var/log/big.log", code=3).complaint


def test_a_damaged_file_system_is_exit_1_and_named(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    image = bytearray(make_image("ext4", tmp_path)[0])
    # The names of a folder and the data behind them.
    at = image.index(b"nginx.conf") & ~1023
    image[at : at + 1024] = b"\xff" * 1024
    image += bytes(-len(image) % 65536)
    store_states(repository, [[bytes(image)]])
    complaint = command("files", "ls", "--at", AT[0], "/etc/nginx", code=1).complaint
    assert "the ext file system on volume 0 of disk disk0 is damaged" in complaint
    document = command.json("files", "cp", "--at", AT[0], "/", tmp_path / "copy/", code=1)
    assert [one["path"] for one in document["left_out"]] == ["/etc/nginx"] and document["files"] > 100


def test_an_existing_link_in_the_destination_is_not_followed(
    guest: Any, command: Pitr, tmp_path: Path
) -> None:
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.mkdir()
    target.mkdir()
    (victim / "hosts").write_bytes(b"victim's")
    (target / "etc").symlink_to(victim)
    document = command.json(
        "files", "cp", "--at", AT[0], "--volume", "2", "/etc", f"{target}/", "--overwrite", code=1
    )
    assert document["files"] == 0 and outside(victim) == {str(victim / "hosts"): b"victim's"}


def test_without_the_libraries_it_says_what_to_install(
    guest: Any, command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dissect.xfs", None)
    assert "pip install 'pitr[files]'" in command("files", "ls", "--at", AT[0], code=1).complaint


def test_wildcards_stand_for_names(guest: Any, command: Pitr, tmp_path: Path) -> None:
    _, (files, _) = guest
    command("files", "cp", "web", "--at", AT[0], "--volume", "2", "/etc/ngin*/*.conf", f"{tmp_path}/conf/")
    assert [path.name for path in below(tmp_path / "conf")] == ["nginx.conf"]
    listed = command.json("files", "ls", "web", "--at", AT[0], "--volume", "2", "/etc/ho*")
    assert [entry["path"] for entry in listed["entries"]] == ["/etc/hosts"]
    printed = command("files", "cat", "web", "--at", AT[0], "--volume", "2", "/etc/h?sts").stdout
    assert printed == (files / "etc/hosts").read_text()
    assert "nothing matches" in command("files", "ls", "--at", AT[0], "/none*", code=4).complaint


def test_a_tar_archive_has_owners_modes_and_links(guest: Any, tmp_path: Path, repository: Repository) -> None:
    _, (files, _) = guest
    program = Pitr({**os.environ, "PITR_REPO": str(repository.path)})
    target = tmp_path / "etc.tar"
    copied = program.json(
        "files", "cp", "web", "--at", AT[0], "--volume", "2", "/etc", "/sparse", "--tar", target
    )
    with tarfile.open(target) as archive:
        members = {member.name: member for member in archive}
        assert members["etc/hosts"].mode == 0o4755 and members["etc/hosts"].uid == 0
        assert members["etc/link"].linkname == "hosts" and members["etc/nginx"].isdir()
        assert int(members["etc/hosts"].mtime) == MTIME_NS // 1_000_000_000
        for name in ("etc/hosts", "etc/nginx/conf.d/ümlaut site.conf", "sparse"):
            content = archive.extractfile(name)
            assert content is not None and content.read() == (files / name).read_bytes()
    assert copied["files"] == sum(member.isreg() for member in members.values())
    again = ("files", "cp", "web", "--at", AT[0], "/etc", "--tar", target)
    assert "already exists" in program(*again, code=2).complaint


def test_a_tar_archive_goes_to_standard_output_without_damaged_files(
    guest: Any, command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    def archived(code: int) -> dict[str, bytes]:
        words = ["files", "cp", "web", "--at", AT[0], "--volume", "2", "/etc", "/var", "--tar", "-"]
        done = subprocess.run(
            [sys.executable, "-m", "pitr", *words],
            env={**os.environ, **command.environment},
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return {
                member.name: content.read()
                for member in archive
                if member.isreg() and (content := archive.extractfile(member)) is not None
            }

    whole = archived(0)
    assert len(whole["var/log/big.log"]) == 1_333_333
    backups, _ = guest
    flip_bit(blob_path(repository, backups[0].streams[0]), -2000)
    left = archived(3)
    assert left.items() < whole.items()


def test_a_later_command_takes_the_data_from_the_folder_of_the_cache(
    guest: Any, command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    cached = ("--cache-dir", tmp_path / "cache")
    copied = ("files", "cp", "--at", AT[1], "--volume", "2", *cached, "/")
    command(*copied, tmp_path / "one")
    difference = ("files", "diff", "--at", AT[1], "--since", AT[0], "--volume", "2", *cached, "--content")
    differs = command(*difference).stdout
    for backup in guest[0]:
        for stream in backup.streams:
            blob = blob_path(repository, stream)
            blob.write_bytes(bytes(blob.stat().st_size))
    command(*copied, tmp_path / "two")
    same_files(tmp_path / "two", tmp_path / "one")
    assert command(*difference).stdout == differs
