# SPDX-License-Identifier: GPL-2.0-or-later
"""One disk on several workers: each does ranges of it, and the documents are those of one machine."""

from __future__ import annotations

import shutil

import pytest

from pitr.jobs.verify import big_blobs
from pitr.repository import Repository
from tests.support.fleet import fleet_of
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit, written

_DISK = "64k:A 64k:0 64k:B 128k:0 64k:C 64k:D 192k:0 64k:E 64k:F 64k:0"


def test_two_workers_verify_ranges_of_one_disk_and_find_its_damage(
    repository: Repository, command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(big_blobs, "SMALLEST", 100)
    (backup,) = written(repository, [(_DISK, True)])
    blob = blob_path(repository, backup.streams[0])
    with fleet_of(command) as fleet:
        fleet.scheduler()
        workers = [fleet.worker("--slots", "1"), fleet.worker("--slots", "1")]
        there = ("--scheduler", fleet.address)
        sound = command.json("verify", *there)
        assert sound == command.json("verify") and sound["checked"]["bytes"] == blob.stat().st_size
        flip_bit(blob, 300)
        copy = repository.path.with_name("copy")
        shutil.copytree(repository.path, copy)
        found = command.json("verify", *there, code=3)
        assert found == command.with_environment(PITR_REPO=str(copy)).json("verify", code=3)
        assert [worker.stop() for worker in workers] == [0, 0]
