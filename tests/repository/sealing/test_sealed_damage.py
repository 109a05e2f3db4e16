# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of a sealed repository that were changed, swapped, truncated or planted, with an identity and without."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.errors import DamageError, PitrError, RepositoryError
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, canonical
from pitr.repository.sealing import age
from pitr.repository.sealing.keys import Identity
from tests.support.sealed import ALICE, BOB, EVE, SealedPlace
from tests.support.stored_points import content

_KINDS = ("blobs", "indexes", "configurations")


def _files(sealed: SealedPlace, folder: str) -> list[Path]:
    found = sorted(path for path in (sealed.path / folder).rglob("*") if path.is_file())
    for path in found:
        path.chmod(0o600)
    return found


def _flip(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def _replace(path: Path, other: Path) -> None:
    """Seal the same content again: whoever knows the recipients can do that."""
    path.write_bytes(age.sealed(age.opened(path.read_bytes(), [ALICE]), [EVE.recipient, ALICE.recipient]))


def _remove(path: Path, other: Path) -> None:
    path.unlink()


def _damage(sealed: SealedPlace, held: tuple[Identity, ...]) -> list[str]:
    sealed.use(*held)
    with Repository.open(sealed.path) as repository:
        return [damage.what for damage in verify(repository, Scope(), "full", workers=1).damage]


@pytest.mark.parametrize("kind", _KINDS)
def test_a_harmed_object_is_found_with_and_without_an_identity(sealed: SealedPlace, kind: str) -> None:
    files = _files(sealed, kind)
    other = files[-1] if len(files) > 1 else _files(sealed, "indexes")[0]
    before = files[0].read_bytes()
    for harm in (_flip, _truncate, _swap, _remove):
        harm(files[0], other)
        for held in ((), (BOB,)):
            assert set(_damage(sealed, held)) & {"blob", "index", "configuration", "frame"}, harm
        files[0].write_bytes(before)


def test_a_restore_never_returns_a_harmed_blob(sealed: SealedPlace) -> None:
    files = _files(sealed, "blobs")
    before = files[0].read_bytes()
    sealed.use(ALICE)
    for harm in (_flip, _truncate, _swap):
        harm(files[0], files[-1])
        assert _failed(sealed)
        files[0].write_bytes(before)
    assert not _failed(sealed)


def _failed(sealed: SealedPlace) -> int:
    """Count the points whose content is refused; what is not refused must be right."""
    failed = 0
    with Repository.open(sealed.path) as repository:
        for backup in repository.catalog.points():
            try:
                assert content(repository, backup) == sealed.stored.contents[backup.backup_id]
            except PitrError as error:
                assert error.exit_code == 3
                failed += 1
    return failed


def test_an_object_that_was_sealed_anew_is_found_without_an_identity(sealed: SealedPlace) -> None:
    for kind in _KINDS:
        path = _files(sealed, kind)[0]
        before = path.read_bytes()
        _replace(path, path)
        assert _damage(sealed, ()) != [], kind
        path.write_bytes(before)
    assert _damage(sealed, ()) == []


def _record(sealed: SealedPlace, number: int = 0) -> Path:
    return _files(sealed, "backups")[number]


def _rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = canonical.parse(path.read_bytes())
    del document["digest"]
    change(document)
    path.write_bytes(canonical.encode(document))


def test_a_changed_record_is_found_by_all_that_have_seen_it_before(sealed: SealedPlace) -> None:
    assert _damage(sealed, ()) == _damage(sealed, (BOB,)) == []
    other = canonical.parse(_record(sealed, 1).read_bytes())["sealed"]
    _rewrite(_record(sealed), lambda document: document.update(sealed=other))
    for held in ((), (BOB,)):
        assert "record" in _damage(sealed, held)


def test_another_hosts_first_look_finds_a_record_whose_parts_do_not_fit(
    sealed: SealedPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(sealed.folder / "another"))
    _rewrite(_record(sealed), lambda document: document.update(duration_ms=1))
    sealed.use(ALICE)
    with Repository.open(sealed.path) as repository:
        assert len(repository.catalog.points()) == 1
        _, unreadable = repository.completed_again()
        assert "its open part was changed" in unreadable[0]


def test_a_record_in_the_open_is_refused(sealed: SealedPlace) -> None:
    path = _record(sealed)
    sealed.use(ALICE)
    with Repository.open(sealed.path) as repository:
        plain = repository.store.read(path.relative_to(sealed.path).as_posix(), limit=canonical.MAX_SIZE)
    path.write_bytes(plain)
    for held in ((), (ALICE,)):
        assert "record" in _damage(sealed, held)


def test_an_object_without_the_suffix_is_no_object(sealed: SealedPlace) -> None:
    blob = _files(sealed, "blobs")[0]
    blob.with_suffix("").write_bytes(b"planted")
    with Repository.open(sealed.path) as repository:
        assert len(list(repository.store.list("blobs"))) == 4
    assert _damage(sealed, ()) == []


def test_a_harmed_key_file_is_found(sealed: SealedPlace) -> None:
    path = _files(sealed, "keys")[0]
    before = path.read_bytes()
    for harm in (_flip, _truncate, _remove):
        harm(path, path)
        with pytest.raises(DamageError):
            Repository.open(sealed.path)
        path.write_bytes(before)


def test_a_repository_that_is_said_to_be_open_is_refused(sealed: SealedPlace) -> None:
    path = sealed.path / "repository.json"
    path.chmod(0o600)
    _rewrite(path, lambda document: document.update(encryption=None))
    with pytest.raises(RepositoryError, match="not sealed, although"):
        Repository.open(sealed.path)


def test_a_key_file_of_somebody_else_lets_nothing_be_written(sealed: SealedPlace) -> None:
    path = _files(sealed, "keys")[0]
    _rewrite(path, lambda document: document.update(recipients=[str(EVE.recipient), str(ALICE.recipient)]))
    before = sorted(sealed.path.rglob("*.age"))
    with pytest.raises(RepositoryError, match="names other recipients"):
        sealed.stored.back_up(sealed.vm)
    assert sorted(sealed.path.rglob("*.age")) == before
