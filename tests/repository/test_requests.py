# SPDX-License-Identifier: GPL-2.0-or-later
"""How many requests commands send to a bucket: each takes its time, and some cost money."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from pitr import times
from pitr.jobs.upkeep import unreferenced
from pitr.repository import Repository, names
from pitr.repository.store.s3 import S3Location
from tests.support import counted, s3
from tests.support.lab import assert_same
from tests.support.memory_engine import MemoryEngine

MiB = 1 << 20


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Location:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = s3.place()
    Repository.create(place).close()
    return place


def test_a_point_takes_the_same_requests_however_long_its_chain_is(
    location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", os.urandom(MiB), os.urandom(MiB))
    sent: list[list[str]] = []
    for _ in range(6):
        with counted.requests() as made, Repository.open(location) as repository:
            engine.back_up(repository, vm)
        sent.append([request for request in made if " blobs/" not in request])
        for disk in vm.disks.values():
            disk[:4096] = os.urandom(4096)
    counts = [len(made) for made in sent]
    assert counts[0] <= 16 and counts[2] == counts[5] <= 20
    written = [request for request in sent[5] if request.startswith("PUT")]
    assert len(written) <= 8
    # What this host has written or listed, it need not read.
    assert [request for request in sent[5] if request.startswith("GET")] == ["GET repository.json"]


def test_a_backup_does_not_trust_a_copy_that_differs_from_the_record(
    location: S3Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", os.urandom(MiB))
    with Repository.open(location) as repository:
        engine.back_up(repository, vm)
    copies = list((tmp_path / "state").glob("pitr/*/copies/*.copy"))
    assert copies
    for copy in copies:
        copy.write_bytes(b"x" * copy.stat().st_size)
    with counted.requests() as made, Repository.open(location) as repository:
        [stream] = engine.back_up(repository, vm).streams
    assert stream.changes == "tracked" and len([each for each in made if each.startswith("GET indexes")]) == 1
    # The next one asks for none again.
    with counted.requests() as made, Repository.open(location) as repository:
        engine.back_up(repository, vm)
    assert not [each for each in made if each.startswith("GET indexes")]


def test_a_check_asks_the_bucket_for_indexes_of_which_this_host_has_copies(
    location: S3Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", os.urandom(MiB))
    with Repository.open(location) as repository:
        backup = engine.back_up(repository, vm)
        name = names.index(backup.streams[0].disk_id, backup.streams[0].stream_id)
        size = repository.store.size(name)
        repository.store.delete(name)
        repository.store.create(name, b"x" * size)
    for options in ([], ["--quick"]):
        found = s3.host_at(location, tmp_path / "state").json("verify", *options, code=3)
        assert [damage["what"] for damage in found["damage"]] == ["index"]


def test_a_list_and_a_restore_take_few_requests(location: S3Location, tmp_path: Path) -> None:
    host = s3.host_at(location, tmp_path / "state")
    image = tmp_path / "image"
    image.write_bytes(os.urandom(32 * MiB))
    host("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    host("list", "web")
    with counted.requests() as made:
        host("list", "web")
    assert len(made) <= 10
    with counted.requests() as made:
        host("restore", "web", "--at", "now", "--to-file", tmp_path / "out.raw")
    assert_same(tmp_path / "out.raw", image)
    blobs = [request for request in made if request.startswith("GET blobs/")]
    assert len(blobs) <= 32 // 2
    assert made.count("GET repository.json") <= 2
    # The records and tombstones of other VMs are of no interest: there may be a hundred thousand.
    assert "LIST tombstones" not in made and made.count("LIST backups") == 1
    assert len(made) - len(blobs) <= 27


def test_the_search_for_unreferenced_objects_asks_for_none_of_them(location: S3Location) -> None:
    with Repository.open(location) as repository:
        for disk in range(2):
            for stream in range(20):
                repository.store.create(names.blob(f"disk-{disk}", f"stream-{stream}"), b"left")
        with counted.requests() as made:
            found = list(
                unreferenced.of_all(repository, repository.catalog, times.now() + timedelta(hours=1))
            )
    assert len(found) == 40
    assert not [request for request in made if request.startswith(("HEAD", "GET"))]
    assert len([request for request in made if "disk-" in request]) == 4
