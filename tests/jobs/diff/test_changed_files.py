# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr diff --files`: changed files, counted for each folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.model import Backup
from pitr.repository import Repository
from tests.support.guest_images import make_image, make_tree, partitioned, run
from tests.support.pitr import Pitr
from tests.support.points_of_images import AT, store_states

_FOLDERS = [
    ("/", {"removed": 1}),
    ("/etc", {"added": 1, "changed": 1, "added_bytes": 4, "changed_bytes": 25}),
    ("/var/log", {"changed": 1, "changed_bytes": 1_833_333}),
]


def _image(folder: Path) -> bytes:
    """Return an ext4 with the files of a folder."""
    image = folder.with_suffix(".image")
    run("truncate", "-s", "8M", image)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", folder, image)
    return image.read_bytes()


@pytest.fixture
def guest(repository: Repository, tmp_path: Path) -> list[Backup]:
    """Two points of a guest with an ext4 on its first disk, and a FAT on its second that does not change."""
    images = [_image(make_tree(tmp_path / f"state{state}", state=state)) for state in (0, 1)]
    (tmp_path / "other").mkdir()
    other, _ = make_image("fat12", tmp_path / "other")
    return store_states(repository, [[partitioned((0x83, image)), other] for image in images])


def test_changes_are_counted_for_each_folder(guest: list[Backup], command: Pitr) -> None:
    document = command.json("diff", "web", "--at", AT[1], "--at", AT[0], "--files")
    assert document["before"]["backup_id"] == guest[0].backup_id and document["disks"]
    files = document["files"]
    figures = ("added", "removed", "changed", "added_bytes", "removed_bytes", "changed_bytes")
    assert [
        (folder["path"], {name: folder[name] for name in figures if folder[name]})
        for folder in files["folders"]
    ] == _FOLDERS
    assert {folder["volume"] for folder in files["folders"]} == {"1"}
    assert (files["added"], files["removed"], files["changed"]) == (1, 1, 2)
    assert files["bytes"] == 4 + 25 + 1_833_333 and files["problems"] == [] and not files["incomplete"]
    assert command.json("diff", "web", "--at", AT[0], "--at", AT[1])["files"] is None


def test_the_table_has_the_folders_and_their_sum(guest: list[Backup], command: Pitr) -> None:
    lines = command("diff", "--point", guest[0].backup_id, "--point", guest[1].backup_id, "--files").stdout
    rows = [line.split()[:4] for line in lines.splitlines() if line.strip().startswith(("/", "All"))]
    assert rows == [
        ["/", "0", "1", "0"],
        ["/etc", "1", "0", "1"],
        ["/var/log", "0", "0", "1"],
        ["All", "1", "1", "2"],
    ]
    same = command("diff", "web", "--at", AT[0], "--at", AT[1], "--files", "--disk", "disk1").stdout
    assert "No file differs." in same


def test_many_folders_are_joined_in_the_table_only(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    states = []
    for name in ("empty", "full"):
        folder = tmp_path / name
        for number in range(60 if name == "full" else 0):
            (folder / f"home/user{number % 2}/album{number}").mkdir(parents=True)
            (folder / f"home/user{number % 2}/album{number}/photo").write_bytes(b"x" * 100)
        folder.mkdir(exist_ok=True)
        states.append([_image(folder)])
    store_states(repository, states)
    arguments = ("diff", "web", "--at", AT[0], "--at", AT[1], "--files")
    assert len(command.json(*arguments)["files"]["folders"]) == 60
    shown = command(*arguments).stdout
    rows = [line.split()[:4] for line in shown.splitlines() if line.strip().startswith("/")]
    assert rows == [["/home/user0", "30", "0", "0"], ["/home/user1", "30", "0", "0"]]
    assert "60 folders with changes, joined to 2" in shown


def test_a_folder_that_became_a_file_counts_by_its_files(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    (tmp_path / "a/data").mkdir(parents=True)
    (tmp_path / "a/data/one").write_bytes(b"12")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/data").write_bytes(b"123")
    store_states(repository, [[_image(tmp_path / name)] for name in ("a", "b")])
    files = command.json("diff", "web", "--at", AT[0], "--at", AT[1], "--files")["files"]
    assert [(each["path"], each["added"], each["removed"]) for each in files["folders"]] == [
        ("/", 1, 0),
        ("/data", 0, 1),
    ]


def test_other_views_do_not_go_with_files(guest: list[Backup], command: Pitr) -> None:
    arguments = ("diff", "web", "--at", AT[0], "--at", AT[1], "--files")
    assert "--files" in command(*arguments, "--extents", code=2).complaint
    assert "--files" in command(*arguments, "--html", "x.html", code=2).complaint
