# SPDX-License-Identifier: GPL-2.0-or-later
"""Removals with a grace time: points are hidden first, come back, and are swept later; on a folder and in a bucket."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pitr.repository import Repository, names, rollbacks, tombstones
from pitr.repository import location as locations
from pitr.repository.location import Location
from pitr.repository.store import Store
from tests.support import s3
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.points import VM, Writer

MiB = 1 << 20


class Site:
    """A repository with a grace time, the program on a host, and hosts with catalogs of their own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.location: Location = s3.place() if kind == "s3" else folder / "repository"
        self.host = self.another("first")

    def another(self, name: str) -> Pitr:
        if isinstance(self.location, Path):
            return Pitr({"PITR_REPO": str(self.location), "TZ": "UTC", "COLUMNS": "140"})
        return s3.host_at(self.location, self.folder / name)

    def store(self) -> Store:
        return locations.opened(self.location, self.folder / "store")

    def names(self, *folders: str) -> set[str]:
        store = self.store()
        try:
            return {name for folder in folders for name in store.list(folder)}
        finally:
            store.close()

    def import_(self, day: int, *options: str) -> dict[str, Any]:
        """Make a point of a disk of its own; `options` as of `pitr import`."""
        image = self.image(day)
        image.write_bytes(os.urandom(MiB) + bytes(MiB))
        done = self.host.json(
            "import",
            "raw",
            image,
            "--vm",
            "web",
            "--disk",
            f"sys{day}",
            "--time",
            f"2026-11-{day:02}",
            *options,
        )
        point: dict[str, Any] = done["imported"][0]
        return point

    def image(self, day: int) -> Path:
        return self.folder / f"image-{day}"


@pytest.fixture(params=["folder", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(request.param, tmp_path)


def _ids(document: dict[str, Any], key: str = "points") -> list[str]:
    return [point["backup_id"] for point in document[key]]


def test_removed_points_are_hidden_restorable_and_come_back(site: Site) -> None:
    host = site.host
    host("init", "--grace", "3d")
    first, second, third = (site.import_(day)["backup_id"] for day in (1, 2, 3))
    planned = host.json("prune", "--keep-last", "1", "--dry-run")
    assert _ids(planned, "removed") == [second, first] and not site.names("tombstones")
    pruned = host.json("prune", "--keep-last", "1")
    assert _ids(pruned, "removed") == [second, first] and _ids(pruned, "swept") == []
    assert pruned["freed_bytes"] == 0 and pruned["removed"][0]["removed_at"] is not None
    assert len(site.names("tombstones")) == 2
    for other in (host, site.another("second")):
        assert _ids(other.json("list")) == [third]
        removed = other.json("list", "--removed", "web")["points"]
        assert _ids({"points": removed}) == [second, first]
        assert all(point["removed_at"] < point["swept_after"] for point in removed)
        assert other.json("verify")["ok"] and other.json("catalog", "check")["ok"]
        assert other.json("status", "web")["vms"][0]["points"] == 1
    assert "Swept after" in host("list", "--removed").stdout
    # Neither a time nor an unreferenced object brings a hidden point in the way.
    host("restore", "web", "--at", "2026-11-02", "--to-file", site.folder / "never.raw", code=4)
    assert host.json("prune", "--keep-last", "1", "--grace", "0s")["unreferenced"] == []
    host("restore", "web", "--point", first, "--to-file", site.folder / "out.raw")
    assert_same(site.folder / "out.raw", site.image(1))
    host("hold", first, code=4)
    assert _ids(host.json("undo-prune", first, "--dry-run")) == [first]
    assert _ids(host.json("list")) == [third]
    assert _ids(host.json("undo-prune", first[:8])) == [first]
    assert _ids(host.json("list")) == [third, first]
    assert _ids(host.json("undo-prune", "--vm", "web")) == [second]
    assert _ids(host.json("undo-prune")) == [] and not site.names("tombstones")
    assert _ids(site.another("second").json("list")) == [third, second, first]
    host("undo-prune", first, code=4)


def test_a_prune_after_the_grace_time_removes_the_objects(site: Site) -> None:
    host = site.host
    host("init", "--grace", "2s")
    gone, kept = site.import_(1), site.import_(2)
    other = site.another("second")
    assert len(other.json("list")["points"]) == 2
    host("forget", gone["backup_id"])
    time.sleep(4.5)
    late = host("undo-prune")
    assert "Took back 0 points" in late.stdout and "1 removed point cannot come back" in late.stderr
    refused = host("undo-prune", gone["backup_id"], code=2)
    assert "cannot come back" in refused.complaint
    planned = host.json("prune", "--keep-last", "1", "--dry-run")
    pruned = host.json("prune", "--keep-last", "1")
    assert _ids(planned, "swept") == _ids(pruned, "swept") == [gone["backup_id"]]
    assert planned["freed_bytes"] == pruned["freed_bytes"] > MiB
    stored = site.names("backups", "blobs", "indexes", "tombstones")
    assert len(stored) == 3 and not any(gone["disks"][0]["stream_id"] in name for name in stored)
    # A catalog that had the point does not take it for lost.
    for each in (host, other):
        assert _ids(each.json("list")) == [kept["backup_id"]]
        assert each.json("verify")["ok"] and each.json("catalog", "check")["ok"]
        assert each.json("list", "--removed")["points"] == []
    host("restore", "web", "--point", gone["backup_id"], "--to-file", site.folder / "out.raw", code=4)


def test_a_point_committed_on_a_hidden_chain_revives_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "writer"))
    host = site.host
    host("init", "--grace", "1s")
    with Repository.open(site.location) as repository:
        writer = Writer(repository)
        base, middle, newest = (
            writer.add(text).backup_id for text in ("64k:A 64k:B", "64k:C 64k:-", "64k:- 64k:D")
        )
        # Another host removed the chain while this one wrote the newest point.
        for backup_id in (middle, base):
            tombstones.add(repository.store, VM.id, backup_id)
    assert _ids(host.json("list")) == [newest, middle, base]
    assert host.json("list", "--removed")["points"] == []
    assert host.json("catalog", "check")["ok"] and host.json("verify")["ok"]
    time.sleep(2.1)
    pruned = host.json("prune", "--keep-last", "1", "--no-consolidate")
    assert _ids(pruned, "swept") == _ids(pruned, "removed") == []
    assert not site.names("tombstones")
    host("restore", "web", "--at", "now", "--to-file", site.folder / "out.raw")
    assert (site.folder / "out.raw").read_bytes() == b"C" * 65536 + b"D" * 65536


def test_a_chain_is_restored_and_taken_back_as_a_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "writer"))
    host = site.host
    host("init", "--grace", "3d")
    with Repository.open(site.location) as repository:
        writer = Writer(repository)
        base, middle, newest = (
            writer.add(text).backup_id for text in ("64k:A 64k:B", "64k:C 64k:-", "64k:- 64k:D")
        )
    host("forget", "web", "--all")
    assert host.json("list")["points"] == []
    host("restore", "web", "--point", newest, "--to-file", site.folder / "out.raw")
    assert (site.folder / "out.raw").read_bytes() == b"C" * 65536 + b"D" * 65536
    assert _ids(host.json("undo-prune", middle)) == [base, middle]
    assert _ids(host.json("list", "web")) == [middle, base]
    assert host.json("verify")["ok"]
    assert _ids(host.json("list", "--removed", "web")) == [newest]


def test_a_consolidated_point_is_not_listed_as_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "writer"))
    host = site.host
    host("init", "--grace", "3d")
    with Repository.open(site.location) as repository:
        writer = Writer(repository)
        base, newest = (writer.add(text).backup_id for text in ("64k:A 64k:B", "64k:C 64k:-"))
    pruned = host.json("prune", "--keep-last", "1")
    [created] = pruned["created"]
    assert created["stands_for"] == newest and _ids(pruned, "removed") == [base]
    assert _ids(host.json("list")) == [created["backup_id"]]
    assert _ids(host.json("list", "--removed")) == [base]
    assert _ids(host.json("undo-prune")) == [base]
    assert len(site.names("tombstones")) == 1
    for point, expected in ((base, b"A"), (newest, b"C"), (created["backup_id"], b"C")):
        host("restore", "web", "--point", point, "--to-file", site.folder / f"{point}.raw")
        assert (site.folder / f"{point}.raw").read_bytes() == expected * 65536 + b"B" * 65536
    assert host.json("verify")["ok"] and host.json("catalog", "check")["ok"]


def test_a_folder_removes_at_once_by_default(tmp_path: Path) -> None:
    site = Site("folder", tmp_path)
    site.host("init")
    gone = site.import_(1)["backup_id"]
    site.import_(2)
    pruned = site.host.json("prune", "--keep-last", "1")
    assert _ids(pruned, "removed") == [gone] and pruned["freed_bytes"] > MiB
    assert not site.names("tombstones", "swept")
    assert site.host.json("list", "--removed")["points"] == []
    assert not (tmp_path / "repository" / "removed.db").exists()


def test_the_grace_time_must_be_a_span(tmp_path: Path) -> None:
    site = Site("folder", tmp_path)
    site.host("init", "--grace", "soon", code=2)
    site.host("init", "--grace", "9y", code=2)
    assert not (tmp_path / "repository").exists()


def test_a_removed_point_that_an_unfinished_rollback_needs_is_not_swept(tmp_path: Path) -> None:
    site = Site("folder", tmp_path)
    site.host("init", "--grace", "1d")
    with Repository.open(site.location) as repository:
        writer = Writer(repository)
        back_to, other, undo = (writer.add("64k:A", full=True).backup_id for _ in range(3))
        left = rollbacks.leave(repository.store, VM.id, [("old", "new")], undo, back_to)
        for backup_id in (back_to, other):
            tombstones.add(repository.store, VM.id, backup_id)
            os.utime(repository.path / names.tombstone(VM.id, backup_id), (0, 0))
        assert _ids(site.host.json("prune", "--keep-last", "1"), "swept") == [other]
        site.host("restore", "web", "--point", back_to, "--to-file", site.folder / "out.raw")
        rollbacks.swapped(repository.store, left)
        assert _ids(site.host.json("prune", "--keep-last", "1"), "swept") == [back_to]
