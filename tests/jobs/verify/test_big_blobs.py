# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of a blob prove what a check of the whole proves, and find the same damage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.errors import NoFittingIdentity
from pitr.jobs.verify import big_blobs
from pitr.jobs.verify.big_blobs import check_range, divided, join
from pitr.jobs.verify.stored_data import Scope, Verified, verify
from pitr.repository import Repository, findings
from tests.support.memory_bucket import Bucket
from tests.support.points import VM, blob_path, flip_bit, record_path, written
from tests.support.sealed import ALICE, SealedPlace

_STORY = [
    ("64k:A 64k:0 64k:B 128k:0 64k:C 64k:D 192k:0 64k:E 64k:F 64k:0", True),
    ("64k:G 64k:- 64k:0 128k:H 64k:- 64k:I 192k:- 64k:J 64k:- 64k:K", False),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take blobs of the tests for large ones."""
    monkeypatch.setattr(big_blobs, "SMALLEST", 40)


def in_ranges(repository: Repository, scope: Scope, places: int) -> Verified:
    """Verify as the workers of a fleet do."""
    with divided(repository, scope, places) as division:
        assert division.blobs
        spread = frozenset(blob.stream.stream_id for blob in division.blobs)
        result = verify(repository, replace(scope, spread=spread), "full")
        for blob in division.blobs:
            digest, *parts = (
                check_range(
                    repository,
                    blob.backup.backup_id,
                    blob.stream.stream_id,
                    place,
                    sample_percent=None,
                    workers=2,
                    progress=None,
                )
                for place in (None, *blob.ranges)
            )
            join(repository, result, blob, digest, parts, print)
    return result


@pytest.mark.parametrize("places", [1, 2, 5])
def test_ranges_cover_a_blob_without_gap_and_overlap(
    repository: Repository, small: None, places: int
) -> None:
    written(repository, _STORY)
    with divided(repository, Scope(VM.id), places) as division:
        assert len(division.blobs) == (1 if places == 1 else 2)
        for blob in division.blobs:
            assert len(blob.ranges) > 1
            begin = first = 0
            for place in blob.ranges:
                assert (place.begin, place.first) == (begin, first)
                assert place.end > begin and place.last > first
                begin, first = place.end, place.last
            assert (begin, first) == (blob.stream.own_blob.size, blob.stream.size)


@pytest.mark.usefixtures("small", "quick_disk")
def test_ranges_find_what_a_check_of_the_whole_finds_wherever_a_bit_changed(repository: Repository) -> None:
    full, newest = written(repository, _STORY)
    whole = verify(repository, Scope(), "full")
    assert in_ranges(repository, Scope(), 4) == whole and whole.ok
    path = blob_path(repository, full.streams[0])
    good = path.read_bytes()
    seen = set()
    for position in range(3, len(good), 67):
        flip_bit(path, position, position % 8)
        expected = verify(repository, Scope(), "full")
        findings.remove_of(repository.store, [full, newest])
        assert in_ranges(repository, Scope(), 4) == expected and not expected.ok
        seen |= {damage.what for damage in expected.damage}
        assert findings.found_in(repository.store, VM.id)
        findings.remove_of(repository.store, [full, newest])
        path.write_bytes(good)
    assert seen == {"blob", "frame"}


@pytest.mark.usefixtures("small")
def test_lost_and_truncated_objects_are_the_same_damage(repository: Repository) -> None:
    full, newest = written(repository, _STORY)
    saved = repository.path.with_name("saved")
    shutil.copytree(repository.path, saved)
    blob, record = blob_path(repository, full.streams[0]), record_path(repository, full)
    for harm in (blob.unlink, lambda: blob.write_bytes(blob.read_bytes()[:-1]), record.unlink):
        harm()
        expected = verify(repository, Scope(VM.id), "full")
        findings.remove_of(repository.store, [full, newest])
        found = in_ranges(repository, Scope(VM.id), 4)
        assert found == expected and not expected.ok
        findings.remove_of(repository.store, [full, newest])
        for path in (blob, record):
            shutil.copy2(saved / path.relative_to(repository.path), path)


@pytest.mark.usefixtures("small")
def test_a_point_whose_ranges_were_all_read_is_proven(repository: Repository) -> None:
    from pitr.jobs.proofs import last_proven, last_read

    full, _ = written(repository, _STORY)
    in_ranges(repository, Scope(VM.id), 4)
    assert len(last_read(repository, VM.id)) == 2 and VM.id in last_proven(repository, VM.id)
    # Its damage ends that.
    flip_bit(blob_path(repository, full.streams[0]), 200)
    in_ranges(repository, Scope(VM.id), 4)
    assert full.streams[0].stream_id not in last_read(repository, VM.id)


@pytest.mark.usefixtures("small")
def test_ranges_of_a_blob_in_a_bucket_are_those_of_a_folder(tmp_path: Path) -> None:
    with Bucket().host(tmp_path) as repository:
        written(repository, _STORY)
        assert in_ranges(repository, Scope(), 4) == verify(repository, Scope(), "full")


def test_small_blobs_are_not_divided(repository: Repository) -> None:
    written(repository, _STORY)
    with divided(repository, Scope(), 2) as division:
        assert (division.blobs, division.shares) == ((), 1)


def test_ranges_of_sealed_blobs_need_an_identity(
    sealed: SealedPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(big_blobs, "SMALLEST", 100_000)
    sealed.use(ALICE)
    with Repository.open(sealed.path) as repository:
        assert in_ranges(repository, Scope(), 4) == verify(repository, Scope(), "full")
        with divided(repository, Scope(), 4) as division:
            blob = division.blobs[0]
    sealed.use()
    with Repository.open(sealed.path) as repository:
        with divided(repository, Scope(), 4) as division:
            assert division.blobs == ()
        backup_id, stream_id = blob.backup.backup_id, blob.stream.stream_id
        with pytest.raises(NoFittingIdentity):
            check_range(repository, backup_id, stream_id, None, sample_percent=None, workers=1, progress=None)
