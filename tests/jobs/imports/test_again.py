# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import` a second time: the same source adds nothing; a grown source adds only what is new."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.imports.test_migration import DISK, qcow2_chain, restored, virtnbdbackup_folder
from tests.jobs.imports.test_streams import CHANGES, FULL, extents, nothing_is_kept
from tests.support.independent import rbd_image_of, rbd_of, run, sparse_of
from tests.support.pitr import Pitr
from tests.support.points import applied, disk

KiB = 1 << 10


def ids(command: Pitr) -> list[str]:
    return [point["backup_id"] for point in command.json("list")["points"]]


def stored(command: Pitr) -> set[Path]:
    return {
        path
        for path in (*command.repository.glob("blobs/*/*"), *command.repository.glob("indexes/*/*"))
        if path.is_file()
    }


def nothing_is_added(command: Pitr, *arguments: str | Path) -> None:
    before, files = ids(command), stored(command)
    again = command.json("import", *arguments)
    assert again["imported"] == [] and {point["backup_id"] for point in again["known"]} <= set(before)
    assert again["known"] and ids(command) == before and stored(command) == files
    assert command.json("verify")["ok"]


def test_a_grown_folder_of_virtnbdbackup_adds_only_what_is_new(command: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "web1"
    contents = virtnbdbackup_folder(folder, 16 * KiB)
    newest = {name: (folder / name).read_bytes() for name in ("sda.x.data", "vdb.x.data")}
    for name in newest:
        (folder / name).unlink()
    where = ("virtnbdbackup", folder, "--vm", "web1")
    assert len(command.json("import", *where)["imported"]) == 2
    nothing_is_added(command, *where)
    for name, body in newest.items():
        (folder / name).write_bytes(body)
    grown = command.json("import", *where)
    assert len(grown["imported"]) == 1 and len(grown["known"]) == 2
    assert {entry["name"] for entry in grown["imported"][0]["disks"]} == {"sda", "vdb"}
    for name in ("sda", "vdb"):
        assert restored(command, grown["imported"][0], name, tmp_path).read_bytes() == contents[name, 2]
    nothing_is_added(command, *where)
    assert "nothing new" in command("import", *where).stderr
    # One file of the folder, as a stream, is a part of what the repository holds.
    nothing_is_added(command, *(folder / f"vdb.{name}.data" for name in "zyx"), "--vm", "web1")


def test_a_grown_chain_of_images_adds_only_what_is_new(command: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    paths = qcow2_chain(folder, DISK, 1)
    aside = paths[2].rename(tmp_path / paths[2].name)
    assert len(command.json("import", "qcow2", folder, "--vm", "web1")["imported"]) == 2
    nothing_is_added(command, "qcow2", *paths[:2], "--vm", "web1")
    aside.rename(paths[2])
    grown = command.json("import", "qcow2", folder, "--vm", "web1")
    assert len(grown["imported"]) == 1 and len(ids(command)) == 3
    nothing_is_added(command, "qcow2", *paths, "--vm", "web1")


def test_images_without_telling_names_are_recognized_by_their_data(command: Pitr, tmp_path: Path) -> None:
    full, *_ = qcow2_chain(tmp_path / "images", DISK, 3)
    plain = full.rename(full.with_name("disk.qcow2"))
    where = ("qcow2", plain, "--vm", "web1", "--disk", "sda", "--time")
    command("import", *where, "2022-01-01T00:00Z")
    nothing_is_added(command, *where, "2022-01-01T00:00Z")
    # At another time, the same data is another point.
    assert len(command.json("import", *where, "2022-01-02T00:00Z")["imported"]) == 1


@pytest.mark.parametrize("dated", [True, False])
def test_streams_are_recognized_by_their_data(command: Pitr, tmp_path: Path, dated: bool) -> None:
    before, after = bytes(disk(FULL)[0]), bytes(applied(disk(FULL)[0], CHANGES))
    paths = [tmp_path / "full", tmp_path / "changes"]
    if dated:
        paths[0].write_bytes(sparse_of(before, extents(FULL), incremental=False, date="2020-06-29T22:00:00Z"))
        paths[1].write_bytes(
            sparse_of(after, extents(CHANGES), incremental=True, date="2020-06-30T22:00:00Z")
        )
    else:
        records = extents(CHANGES, data="w", zero="z")
        paths[0].write_bytes(rbd_of(before, [("w", 0, len(before))], to_snapshot="s1"))
        paths[1].write_bytes(rbd_of(after, records, from_snapshot="s1", to_snapshot="s2"))
    where = ("--vm", "web1", "--disk", "system")
    assert len(command.json("import", *paths, *where)["imported"]) == 2
    nothing_is_added(command, *paths, *where)
    run(command, "import", "-", *where, given=paths[0])
    assert len(ids(command)) == 2
    # Other data of the same name is not taken for the old.
    paths[0].write_bytes(rbd_of(before[:-1] + b"!", [("w", 0, len(before))], to_snapshot="s1"))
    assert len(command.json("import", paths[0], *where)["imported"]) == 1


def test_an_export_of_a_point_adds_nothing_to_its_own_repository(command: Pitr, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.write_bytes(sparse_of(bytes(disk(FULL)[0]), extents(FULL), incremental=False))
    point = command.json("import", full, "--vm", "web1", "--disk", "system")["imported"][0]
    command("export", "--point", point["backup_id"], "--to", tmp_path / "out")
    nothing_is_added(command, tmp_path / "out")
    # For another VM it is a copy.
    assert len(command.json("import", tmp_path / "out", "--vm", "copy")["imported"]) == 1


def test_onto_does_not_overrule_the_base_that_a_stream_names(command: Pitr, tmp_path: Path) -> None:
    before, after = bytes(disk(FULL)[0]), bytes(applied(disk(FULL)[0], CHANGES))
    where = ("--vm", "web1", "--disk", "system")
    fulls = []
    for name in ("s1", "other", None):
        path = tmp_path / f"{name}"
        path.write_bytes(rbd_of(before, [("w", 0, len(before))], to_snapshot=name))
        fulls.append(command.json("import", path, *where)["imported"][0])
    changes = tmp_path / "changes"
    records = extents(CHANGES, data="w", zero="z")
    changes.write_bytes(rbd_of(after, records, from_snapshot="s1", to_snapshot="s2"))
    held, files = ids(command), stored(command)
    for wrong in fulls[1:]:
        complaint = command("import", changes, *where, "--onto", wrong["backup_id"], code=2).complaint
        assert "based on snapshot s1" in complaint
    assert ids(command) == held and stored(command) == files
    point = command.json("import", changes, *where, "--onto", fulls[0]["backup_id"])["imported"][0]
    assert point["parent_id"] == fulls[0]["backup_id"]
    command("import", changes, *where, "--onto", fulls[1]["backup_id"], code=2)
    nothing_is_added(command, changes, *where, "--onto", fulls[0]["backup_id"])
    # The difference of two points names them, too.
    command(
        *("export", "--point", point["backup_id"], "--since", fulls[0]["backup_id"], "--to", tmp_path / "out")
    )
    command("import", tmp_path / "out", "--onto", fulls[1]["backup_id"], code=2)
    nothing_is_added(command, tmp_path / "out", "--onto", fulls[0]["backup_id"])
    # A base that the repository lacks is not the point of --onto, unless that point has no name.
    changes.write_bytes(rbd_of(after, records, from_snapshot="gone", to_snapshot="s3"))
    command("import", changes, *where, "--onto", fulls[0]["backup_id"], code=2)
    command("import", changes, *where, "--onto", fulls[2]["backup_id"])


def test_an_image_with_its_snapshots_becomes_points(command: Pitr, tmp_path: Path) -> None:
    texts = [FULL, CHANGES, "1m:- 64k:0 4k:Q"]
    content = bytearray()
    contents, diffs = [], []
    names = ["monday", "not a storable/name", None]
    for number, text in enumerate(texts):
        content = applied(content, text)
        contents.append(bytes(content))
        records = [one for one in extents(text, data="w", zero="z") if number or one[0] == "w"]
        since = names[number - 1] if number else None
        diffs.append(rbd_of(contents[-1], records, v2=True, from_snapshot=since, to_snapshot=names[number]))
    path, where = tmp_path / "image", ("--vm", "ceph", "--disk", "image")
    path.write_bytes(rbd_image_of(diffs))
    points = command.json("import", path, *where)["imported"]
    assert [point["checkpoint_id"] for point in points] == ["monday", None, None]
    assert [point["parent_id"] for point in points[1:]] == [point["backup_id"] for point in points[:2]]
    for point, expected in zip(points, contents, strict=True):
        assert restored(command, point, "image", tmp_path).read_bytes() == expected
    nothing_is_added(command, path, *where)
    run(command, "import", "-", *where, given=path)
    assert len(ids(command)) == 3
    complaint = command("restore", "--from", path, "--to-file", tmp_path / "out.raw", code=1).complaint
    assert "2 snapshots" in complaint
    path.write_bytes(rbd_image_of(diffs[:1]))
    command("restore", "--from", path, "--to-file", tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == contents[0]


@pytest.mark.parametrize("broken", ["cut", "no diffs", "more", "huge"])
def test_a_broken_image_of_rbd_leaves_nothing(command: Pitr, tmp_path: Path, broken: str) -> None:
    content = bytes(disk(FULL)[0])
    good = rbd_image_of([rbd_of(content, [("w", 0, len(content))], v2=True)])
    stream = {
        "cut": good[:-1],
        "no diffs": rbd_image_of([]),
        "more": good + b"x",
        "huge": b"rbd image v2\nO" + b"\xff" * 8 + bytes(100),
    }[broken]
    (tmp_path / "image").write_bytes(stream)
    command("import", tmp_path / "image", "--vm", "v", "--disk", "d", code=1)
    nothing_is_kept(command)


def test_the_vm_of_images_is_the_folder_then_the_vm_that_has_the_disk(command: Pitr, tmp_path: Path) -> None:
    paths = qcow2_chain(tmp_path / "images", DISK, 1)
    first = command.json("import", "qcow2", *paths)["imported"]
    again = command.json("import", "qcow2", *paths)["known"]
    # Without --vm, the folder names the VM; later, the repository knows whose disk it is.
    assert first[0]["vm"]["name"] == "images" and again == first
    paths[0].parent.rename(tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in paths]
    assert command.json("import", "qcow2", *moved)["known"] == first
