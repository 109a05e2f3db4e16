# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr replicate` from and to sealed repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pitr.errors import NoFittingIdentity, RepositoryError, UsageError
from pitr.jobs import keys
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, configurations
from pitr.repository.sealing.keys import Identity
from tests.support.memory_engine import MemoryEngine
from tests.support.sealed import ALICE, BOB, EVE, OVF, VM_NAME, SealedPlace
from tests.support.stored_points import Stored, chain_of_three, content

_WATCH = ReplicateWatch(pytest.fail)


def _copied(source: Path, target: Path, **options: Any) -> Replicated:
    with Repository.open(source) as repository:
        return replicate(repository, target, ReplicateOptions(**options), _WATCH)


def _check(place: SealedPlace, path: Path, stored: Stored, ovf: str) -> None:
    """Check that the copy is whole with and without an identity, and holds each point."""
    for held in ((), (ALICE,)):
        place.use(*held)
        with Repository.open(path) as repository:
            assert verify(repository, Scope(), "full", workers=1).damage == []
            points = repository.catalog.points()
            assert len(points) == len(stored.contents)
            for backup in points if held else ():
                assert content(repository, backup) == stored.contents[backup.backup_id]
                assert configurations.read(repository.store, backup) == ovf
    place.use()


def _objects(path: Path) -> dict[str, bytes]:
    folders = ("blobs", "indexes", "configurations", "backups", "keys")
    return {
        each.relative_to(path).as_posix(): each.read_bytes()
        for folder in folders
        for each in (path / folder).rglob("*")
        if each.is_file()
    }


def test_a_copy_for_the_same_recipients_needs_no_identity(sealed: SealedPlace, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    for held in ((), (BOB,)):
        sealed.use(*held)
        assert _copied(sealed.path, target).behind == 0
    ours, theirs = _objects(sealed.path), _objects(target)
    assert {name: data for name, data in ours.items() if "keys/" not in name} == {
        name: data for name, data in theirs.items() if "keys/" not in name
    }
    _check(sealed, target, sealed.stored, OVF)
    sealed.stored.back_up(sealed.vm)
    again = _copied(sealed.path, target)
    assert (again.points, again.damage) == (1, [])
    _check(sealed, target, sealed.stored, OVF)


def test_a_copy_is_repaired_without_an_identity(sealed: SealedPlace, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    sealed.use()
    _copied(sealed.path, target)
    blob = next((target / "blobs").rglob("*.age"))
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    assert len(_copied(sealed.path, target, repair=True).repaired) == 1
    _check(sealed, target, sealed.stored, OVF)


def test_a_repository_in_the_open_is_sealed_on_the_way(
    sealed: SealedPlace, memory_engine: MemoryEngine, tmp_path: Path
) -> None:
    source, _ = chain_of_three(tmp_path / "open", memory_engine)
    target = tmp_path / "target"
    with Repository.create(target, recipients=[str(ALICE.recipient), str(BOB.recipient)]):
        pass
    sealed.use()
    assert _copied(source.path, target).behind == 0
    assert _copied(source.path, target).objects == 0
    _check(sealed, target, source, OVF)
    for path in target.rglob("*"):
        assert not path.is_file() or b"web1" not in path.read_bytes(), path


def test_other_recipients_need_an_identity_of_the_source(sealed: SealedPlace, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Repository.create(target, recipients=[str(EVE.recipient), str(ALICE.recipient)]):
        pass
    sealed.use()
    with pytest.raises(NoFittingIdentity):
        _copied(sealed.path, target)
    sealed.use(BOB)
    assert _copied(sealed.path, target).behind == 0
    _check(sealed, target, sealed.stored, OVF)
    sealed.use(EVE)
    with Repository.open(target) as repository:
        assert {backup.vm.name for backup in repository.catalog.points()} == {VM_NAME}


def test_only_an_identity_opens_a_repository_on_the_way(sealed: SealedPlace, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Repository.create(target):
        pass
    for held in ((), (EVE,)):
        sealed.use(*held)
        with pytest.raises(NoFittingIdentity, match="is not sealed, so the copy needs an identity"):
            _copied(sealed.path, target)
    assert not any((target / folder).exists() for folder in ("blobs", "indexes", "configurations"))
    sealed.use(ALICE)
    with pytest.raises(UsageError, match="cannot be repaired"):
        _copied(sealed.path, target, repair=True)
    assert _copied(sealed.path, target).behind == 0
    assert _copied(sealed.path, target).objects == 0
    sealed.stored.back_up(sealed.vm)
    assert _copied(sealed.path, target).points == 1
    sealed.use()
    with Repository.open(target) as repository:
        assert verify(repository, Scope(), "full", workers=1).damage == []
        points = repository.catalog.points()
        assert len(points) == len(sealed.stored.contents)
        for backup in points:
            assert backup.vm.name == VM_NAME
            assert content(repository, backup) == sealed.stored.contents[backup.backup_id]
            assert configurations.read(repository.store, backup) == OVF
        assert repository.check_catalog().differences == ()
    assert not list(target.rglob("*.age"))


@pytest.mark.parametrize("recipients", [(), (EVE, ALICE)], ids=["open", "sealed to others"])
def test_points_that_an_identity_does_not_open_are_counted_and_not_copied(
    sealed: SealedPlace, tmp_path: Path, recipients: tuple[Identity, ...]
) -> None:
    target = tmp_path / "target"
    with Repository.create(target, recipients=[str(each.recipient) for each in recipients]):
        pass
    sealed.use(trust=True)
    with Repository.open(sealed.path) as repository:
        keys.rotate(repository, [str(EVE.recipient), str(BOB.recipient)])
    sealed.stored.back_up(sealed.vm)
    sealed.stored.back_up(sealed.vm, full=True)
    # The first two points are sealed to Alice and Bob, and the third one is based on them.
    sealed.use(EVE)
    done = _copied(sealed.path, target)
    assert (done.points, done.unopened, done.behind, done.damage, done.exit_code) == (1, 3, 3, [], 1)
    sealed.use(BOB)
    done = _copied(sealed.path, target)
    assert (done.points, done.unopened, done.behind, done.exit_code) == (3, 0, 0, 0)
    with Repository.open(target) as repository:
        assert verify(repository, Scope(), "full", workers=1).damage == []
        assert len(repository.catalog.points()) == 4


def test_a_new_target_of_a_sealed_source_is_sealed(sealed: SealedPlace, tmp_path: Path) -> None:
    sealed.use(ALICE)
    _copied(sealed.path, tmp_path / "copy")
    with Repository.open(tmp_path / "copy") as repository:
        assert repository.keyring is not None


def test_a_host_that_does_not_trust_the_recipients_copies_nothing(
    sealed: SealedPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    sealed.use()
    with pytest.raises(RepositoryError, match="has not pinned"):
        _copied(sealed.path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
