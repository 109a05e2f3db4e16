# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository: hosts with the recipients alone write and manage it, an identity opens it."""

from __future__ import annotations

import pytest

from pitr.errors import NoFittingIdentity
from pitr.jobs.verify.stored_data import Scope, Verified, verify
from pitr.model import Backup
from pitr.repository import Repository, configurations, names
from tests.support.sealed import ALICE, BOB, EVE, OVF, VM_NAME, SealedPlace
from tests.support.stored_points import content


def _points(place: SealedPlace) -> list[Backup]:
    with Repository.open(place.path) as repository:
        return repository.catalog.points()


def _verified(place: SealedPlace, level: str = "full") -> Verified:
    with Repository.open(place.path) as repository:
        return verify(repository, Scope(), "full" if level == "full" else "quick", workers=1)


def _check_contents(place: SealedPlace) -> None:
    with Repository.open(place.path) as repository:
        points = repository.catalog.points()
        assert len(points) == len(place.stored.contents)
        for backup in points:
            assert content(repository, backup) == place.stored.contents[backup.backup_id]


def test_a_host_without_an_identity_backs_up_and_an_identity_reads_all(sealed: SealedPlace) -> None:
    for identity in (ALICE, BOB):
        sealed.use(identity)
        _check_contents(sealed)
        points = _points(sealed)
        assert {backup.vm.name for backup in points} == {VM_NAME}
        assert [backup.kind.value for backup in points] == ["incremental", "full"]


def test_without_an_identity_points_have_ids_in_the_place_of_names(sealed: SealedPlace) -> None:
    for backup in _points(sealed):
        assert backup.vm.name == backup.vm.id == sealed.vm.id
        assert all(stream.name == stream.disk_id for stream in backup.streams)


def test_no_file_of_the_repository_holds_a_name_or_the_configuration(sealed: SealedPlace) -> None:
    for identity in ((), (ALICE,), ()):
        sealed.use(*identity)
        _ = _points(sealed)
        _ = _verified(sealed)
        needles = [
            VM_NAME.encode(),
            b"ledger",
            b"Envelope",
            *(f"disk-{each[-1]}".encode() for each in sealed.vm.disks),
        ]
        for path in sealed.path.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not [needle for needle in needles if needle in data], path


def test_content_is_refused_without_a_fitting_identity(sealed: SealedPlace) -> None:
    for held in ((), (EVE,)):
        sealed.use(*held)
        with Repository.open(sealed.path) as repository:
            backup = repository.catalog.points()[0]
            with pytest.raises(NoFittingIdentity) as refused:
                content(repository, backup)
            for each in (ALICE, BOB):
                assert each.recipient.fingerprint in refused.value.message
            with pytest.raises(NoFittingIdentity):
                configurations.read(repository.store, backup)


def test_the_configuration_is_stored_once_and_opens(sealed: SealedPlace) -> None:
    sealed.use(BOB)
    with Repository.open(sealed.path) as repository:
        points = repository.catalog.points()
        assert [configurations.read(repository.store, backup) for backup in points] == [OVF, OVF]
        assert len(list(repository.store.list(names.CONFIGURATIONS))) == 1


def test_verify_passes_with_and_without_an_identity(sealed: SealedPlace) -> None:
    for held in ((), (BOB,)):
        sealed.use(*held)
        for level in ("quick", "full"):
            result = _verified(sealed, level)
            assert result.damage == [] and result.points == 2
