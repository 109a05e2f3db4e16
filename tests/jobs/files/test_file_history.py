# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files history`: every version of a file over the points of a VM."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import blake3
import pytest

from pitr.endpoints.points import point
from pitr.jobs.files import volumes
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.guest_images import make_image, run
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit
from tests.support.points_of_images import store_states


def _changed(image: Path, *commands: str) -> bytes:
    """Change an ext4 image with debugfs, and return its bytes."""
    program = shutil.which("debugfs", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")))
    assert program is not None
    subprocess.run([program, "-w", "-f", "-", image], input="\n".join(commands), text=True, check=True)
    return image.read_bytes()


@pytest.fixture
def points(repository: Repository, tmp_path: Path) -> list[Backup]:
    """Six points: hosts, the same, the same beside a new file, another hosts, none, hosts again."""
    run("debugfs", "-V")
    make_image("ext4", tmp_path)
    image = tmp_path / "image0"
    for name, text in (("second", "second\n"), ("third", "third one\n")):
        (tmp_path / name).write_text(text)
    states = [
        image.read_bytes(),
        image.read_bytes(),
        _changed(image, f"write {tmp_path / 'third'} /beside"),
        _changed(image, "rm /etc/hosts", f"write {tmp_path / 'second'} /etc/hosts"),
        _changed(image, "rm /etc/hosts"),
        _changed(image, f"write {tmp_path / 'third'} /etc/hosts"),
    ]
    return store_states(repository, [[state] for state in states])


def test_equal_neighbours_are_one_version(points: list[Backup], command: Pitr) -> None:
    ids = [backup.backup_id for backup in points]
    document = command.json("files", "history", "web", "/etc/hosts", "--digest")
    assert document["path"] == "/etc/hosts" and document["unread"] == []
    assert [version["number"] for version in document["versions"]] == [3, 2, 1]
    third, second, first = document["versions"]
    assert (first["points"], second["points"], third["points"]) == (ids[:3], ids[3:4], ids[5:])
    assert [version["size"] for version in (first, second, third)] == [20, 7, 10]
    assert first["mode"] == "4755" and first["mtime"] == "2009-02-13T23:31:30Z"
    assert second["digest"] == blake3.blake3(b"second\n").hexdigest()
    assert first["first"] == "2020-06-29T22:00:00Z" and first["last"] == "2020-07-01T22:00:00Z"
    assert command.json("files", "history", "web", "/etc/hosts")["versions"][0]["digest"] is None


def test_a_version_can_be_copied(points: list[Backup], command: Pitr, tmp_path: Path) -> None:
    command("files", "cp", "web", "/etc/hosts", tmp_path / "old", "--version", "2")
    assert (tmp_path / "old").read_text() == "second\n"
    refused = command("files", "cp", "web", "/etc/hosts", tmp_path / "none", "--version", "4", code=2)
    assert "no version 4" in refused.complaint and "1 to 3" in refused.complaint
    refused = command("files", "cp", "/etc", tmp_path / "x", "--version", "1", "--at", "now", code=2)
    assert "--version" in refused.complaint


def test_a_path_that_never_existed_exits_4(points: list[Backup], command: Pitr) -> None:
    assert "/etc/none" in command("files", "history", "web", "/etc/none", code=4).complaint
    command("files", "history", "nobody", "/etc/hosts", code=4)


def test_points_that_changed_nothing_that_was_read_are_not_opened(
    points: list[Backup], command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = point.open_point

    def counting(repository: Repository, backup: Backup, *others: object) -> object:
        opened.append(backup.backup_id)
        return original(repository, backup, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(volumes, "open_point", counting)
    command("files", "history", "web", "/etc/hosts")
    assert points[0].backup_id in opened and points[1].backup_id not in opened
    assert points[3].backup_id in opened and points[4].backup_id in opened


def test_damaged_points_are_named_and_the_others_shown(
    points: list[Backup], repository: Repository, command: Pitr
) -> None:
    flip_bit(blob_path(repository, points[3].streams[0]), -40)
    done = command.run("files", "history", "web", "/etc/hosts", "--digest", "--output", "json")
    assert done.code == 3
    unread = [point["backup_id"] for point in done.json["unread"] if point["damaged"]]
    assert unread and set(unread) <= {backup.backup_id for backup in points[3:]}
    assert done.json["versions"][-1]["points"][0] == points[0].backup_id


def test_files_are_found_by_name_path_and_time(points: list[Backup], command: Pitr) -> None:
    def found(*arguments: str) -> list[tuple[str, int]]:
        document = command.json("files", "find", "web", *arguments)
        return [(file["path"], len(file["points"])) for file in document["files"]]

    assert found("hosts", "--at", "2020-06-29T22:00:00Z") == [("/etc/hosts", 1)]
    assert found("/etc/nginx/*.conf", "--point", points[0].backup_id) == [
        ("/etc/nginx/conf.d/ümlaut site.conf", 1),
        ("/etc/nginx/nginx.conf", 1),
    ]
    assert found("hosts", "--all") == [("/etc/hosts", 3), ("/etc/hosts", 1), ("/etc/hosts", 1)]
    assert found("*", "--all", "--content-newer", "2020-01-01") == [
        ("/beside", 4),
        ("/etc/hosts", 1),
        ("/etc/hosts", 1),
        ("/sparse", 6),
    ]
    assert found("nothing*", "--all") == []
    assert command.json("files", "find", "web", "hosts")["files"][0]["points"] == [points[-1].backup_id]
    command("files", "find", "web", "hosts", "--all", "--at", "now", code=2)
    shown = command("files", "find", "web", "hosts", "--all").stdout
    assert shown.count("/etc/hosts") == 3


def test_wildcards_name_one_file(points: list[Backup], command: Pitr, tmp_path: Path) -> None:
    assert command.json("files", "history", "web", "/e*/host?")["path"] == "/etc/hosts"
    command("files", "cp", "web", "/etc/host*", tmp_path / "old", "--version", "2")
    assert (tmp_path / "old").read_text() == "second\n"
    refused = command("files", "history", "web", "/many/*", code=2).complaint
    assert "150 files match" in refused and "/many/file number 000" in refused
    command("files", "history", "web", "/etc/none*", code=4)


def test_wildcards_do_not_start_libguestfs(
    points: list[Backup], command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("libguestfs was asked")

    monkeypatch.setattr(volumes.Volumes, "_found_by_guestfs", fail)
    listed = command.json("files", "ls", "web", "--at", "now", "/etc/host*")
    assert [entry["path"] for entry in listed["entries"]] == ["/etc/hosts"]
