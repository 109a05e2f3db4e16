# SPDX-License-Identifier: GPL-2.0-or-later
"""Points come back from their blobs alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pitr.errors import BusyError, PitrError
from pitr.jobs.upkeep.records_from_blobs import recover
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Kind, Mode
from pitr.repository import Repository
from pitr.repository.blob_walk import BlobWalk
from tests.support.points import Writer, blob_path, flip_bit, read_point

pytestmark = pytest.mark.usefixtures("quick_disk")

DISKS = ["64k:A 64k:- 128k:0 1m:B", "64k:- 64k:C 128k:- 1m:0", "64k:0 64k:- 64k:D 64k:- 1m:-"]


def _chain(repository: Repository) -> list[bytearray]:
    """A full and two incrementals; what the disk held at each."""
    writer = Writer(repository)
    writer.add(DISKS[0].replace("-", "0"), full=True)
    for text in DISKS[1:]:
        writer.add(text)
    return [_content(repository, backup.backup_id) for backup in writer.backups]


def _content(repository: Repository, backup_id: str) -> bytearray:
    backup = repository.catalog.get(backup_id)
    assert backup is not None
    return read_point(repository, backup, backup.streams[0])


def _lose_all_but_blobs(path: Path) -> None:
    (path / "catalog.db").unlink()
    shutil.rmtree(path / "backups")
    for index in path.glob("indexes/*/*.index.db"):
        index.unlink()


def test_all_points_come_back_with_what_they_held(repository: Repository) -> None:
    contents = _chain(repository)
    before = repository.catalog.points()[::-1]
    path = repository.path
    repository.close()
    _lose_all_but_blobs(path)

    with Repository.open(path) as again:
        brought = recover(again)
        assert brought.failed == ()
        again.rebuild_catalog()
        after = again.catalog.points()[::-1]
        assert [backup.backup_id for backup in after] == [backup.backup_id for backup in before]
        assert [backup.parent_id for backup in after] == [backup.parent_id for backup in before]
        assert [backup.kind for backup in after] == [Kind.FULL, Kind.INCREMENTAL, Kind.INCREMENTAL]
        assert {backup.mode for backup in after} == {Mode.IMPORTED}
        assert all(stream.note for backup in after for stream in backup.streams)
        for old, new in zip(before, after, strict=True):
            assert new.streams[0].blob == old.streams[0].blob
            assert new.streams[0].extents == old.streams[0].extents
        assert [_content(again, backup.backup_id) for backup in after] == contents
        assert verify(again, Scope(), "full").ok


def test_points_that_have_their_records_stay_as_they_are(repository: Repository) -> None:
    _chain(repository)
    before = repository.catalog.dump()
    brought = recover(repository)
    assert brought.backups == ()
    assert brought.failed == ()
    repository.rebuild_catalog()
    assert repository.catalog.dump() == before


def test_what_stands_on_a_lost_blob_is_not_brought_back(repository: Repository) -> None:
    _chain(repository)
    full, middle, _ = repository.catalog.points()[::-1]
    blob_path(repository, middle.streams[0]).unlink()
    path = repository.path
    repository.close()
    _lose_all_but_blobs(path)
    with Repository.open(path) as again:
        brought = recover(again)
        assert [backup.backup_id for backup in brought.backups] == [full.backup_id]
        assert any(middle.streams[0].stream_id in line for line in brought.failed)


def test_a_damaged_blob_is_named_and_not_brought_back(repository: Repository) -> None:
    _chain(repository)
    full = repository.catalog.points()[-1]
    blob = blob_path(repository, full.streams[0])
    for bit in range(0, blob.stat().st_size * 8, 37):
        flip_bit(blob, bit // 8, bit % 8)
        with repository.store.open(str(blob.relative_to(repository.path))) as file, pytest.raises(PitrError):
            walk = BlobWalk(file)
            list(walk)
            # Not every bit of a frame's header changes what comes out of it: then the digest tells.
            if walk.digest != full.streams[0].own_blob.digest:
                raise PitrError("the digest tells")
        flip_bit(blob, bit // 8, bit % 8)


def test_blobs_of_a_backup_that_runs_are_left_to_it(repository: Repository) -> None:
    _chain(repository)
    vm = repository.catalog.vms()[0]
    before = {
        path: path.read_bytes()
        for kind in ("blobs", "indexes")
        for path in repository.path.glob(f"{kind}/*/*")
    }
    for record in repository.path.glob("backups/*/*.json"):
        record.unlink()
    with repository.lock_vm(vm), pytest.raises(BusyError):
        recover(repository)
    assert {
        path: path.read_bytes()
        for kind in ("blobs", "indexes")
        for path in repository.path.glob(f"{kind}/*/*")
    } == before
