# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository whose recipients were replaced: each identity opens one epoch, and says so of the other."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.jobs import documents
from pitr.model import Backup, Kind
from pitr.repository import Repository
from pitr.repository.sealing.keys import Identity
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, EVE, VM_NAME, SealedPlace
from tests.support.stored_points import change

CAROL, DAVE = (Identity.generate() for _ in range(2))


@pytest.fixture
def host(sealed: SealedPlace) -> Pitr:
    """Replace the recipients and add a point, on a host that holds no identity."""
    state = str(sealed.folder / "state")
    host = Pitr({"PITR_REPO": str(sealed.path), "TZ": "UTC", "COLUMNS": "400", "XDG_STATE_HOME": state})
    host("key", "rotate", "--encrypt", str(CAROL.recipient), "--encrypt", str(DAVE.recipient))
    sealed.use()
    change(sealed.vm, random.Random(4))
    sealed.stored.back_up(sealed.vm)
    return host


def _key(sealed: SealedPlace, *held: Identity) -> tuple[str, ...]:
    return tuple(word for each in held for word in ("--identity", str(sealed.key(each))))


def _names(host: Pitr, *key: str) -> list[str | None]:
    return [point["vm"]["name"] for point in host("list", *key, "-o", "json").json["points"]]


def _restores(host: Pitr, sealed: SealedPlace, point: str, folder: Path, *key: str) -> bool:
    """Restore a point; compare it. Return False if it was refused because no identity fits."""
    ended = host.run("restore", "--point", point, "--to-file", str(folder), "--format", "raw", *key)
    if ended.code == 1:
        assert CAROL.recipient.fingerprint in ended.complaint
        assert not folder.exists()
        return False
    assert ended.code == 0, ended
    restored = sorted(path.read_bytes() for path in folder.iterdir())
    assert restored == sorted(sealed.stored.contents[point].values())
    return True


def test_each_identity_opens_the_points_of_its_epoch_in_any_order(
    host: Pitr, sealed: SealedPlace, tmp_path: Path
) -> None:
    old, new, both = _key(sealed, ALICE), _key(sealed, CAROL), _key(sealed, ALICE, CAROL)
    known = {old: [None, VM_NAME, VM_NAME], new: [VM_NAME, None, None], both: [VM_NAME] * 3, (): [None] * 3}
    opens = {old: [True, True, False], new: [False, False, False], both: [True] * 3, (): [False] * 3}
    for number, key in enumerate((old, new, both, (), new, old)):
        assert _names(host, *key) == known[key]
        for nth, point in enumerate(sealed.stored.contents):
            folder = tmp_path / f"{number}-{nth}"
            assert _restores(host, sealed, point, folder, *key) == opens[key][nth]
        assert host("verify", *key, "-o", "json").json["damage"] == []
        host("catalog", "check", *key)


def test_points_of_two_epochs_are_consolidated_only_with_both_identities(
    host: Pitr, sealed: SealedPlace, tmp_path: Path
) -> None:
    old, new, both = _key(sealed, ALICE), _key(sealed, CAROL), _key(sealed, ALICE, CAROL)
    for key in (old, new):
        pruned = host("prune", "--keep-last", "1", *key)
        assert "without an identity" in pruned.stderr
        assert len(_names(host)) == 3
    host("prune", "--keep-last", "1", *both)
    point = list(sealed.stored.contents)[-1]
    # The record is sealed to the new recipients, and some blobs that it uses to the old ones.
    for number, key in enumerate((old, new, (), both)):
        assert _restores(host, sealed, point, tmp_path / str(number), *key) == (key == both)
        checked = host("verify", *key)
        assert ("NOT checked" in checked.stdout) == (key == new)
        assert ("only stored digests" in checked.stdout) == (key in (old, ()))


def test_backups_beside_data_of_an_older_epoch(host: Pitr, sealed: SealedPlace, tmp_path: Path) -> None:
    def back_up(*held: Identity, lost: bool) -> Backup:
        if lost:
            sealed.vm.checkpoints.clear()
        change(sealed.vm, random.Random(9))
        sealed.use(*held)
        return sealed.stored.back_up(sealed.vm)

    # The chain of the newest point begins in the first epoch.
    full = back_up(CAROL, lost=True)
    assert {stream.kind for stream in full.streams} == {Kind.FULL}
    assert all("without an identity" in (stream.reason or "") for stream in full.streams)
    compared = back_up(CAROL, lost=True)
    assert {stream.changes for stream in compared.streams} == {"compared"}
    host("key", "rotate", "--encrypt", str(ALICE.recipient), "--encrypt", str(EVE.recipient))
    old_and_new = (CAROL, ALICE)
    beside = back_up(*old_and_new, lost=True)
    assert {stream.changes for stream in beside.streams} == {"compared"}
    # The new point uses blobs of the epoch before, which an identity of today does not open.
    host("prune", "--keep-last", "1", *_key(sealed, *old_and_new))
    for held in ((EVE,), (), old_and_new):
        assert {stream.changes for stream in back_up(*held, lost=False).streams} == {"tracked"}
    full = back_up(EVE, lost=True)
    assert {stream.kind for stream in full.streams} == {Kind.FULL}
    both = _key(sealed, *old_and_new)
    assert host("verify", *both, "-o", "json").json["damage"] == []
    kept = {point["backup_id"] for point in host("list", "-o", "json").json["points"]}
    for point in kept & set(sealed.stored.contents):
        assert _restores(host, sealed, point, tmp_path / point, *both)


def test_two_repositories_in_one_process_keep_their_names_apart(sealed: SealedPlace, tmp_path: Path) -> None:
    sealed.use(ALICE)
    with Repository.open(sealed.path) as opened:
        sealed.use()
        with Repository.open(sealed.path) as closed, Repository.create(tmp_path / "plain") as plain:
            assert plain.opens and not closed.opens and opened.opens
            for repository, name in ((opened, VM_NAME), (closed, None), (opened, VM_NAME)):
                [vm] = repository.catalog.vms()
                assert documents.vm_document(vm) == {"id": sealed.vm.id, "name": name}
                for backup in repository.catalog.points():
                    point = documents.point(repository.record_of(backup.backup_id))
                    assert point == documents.point(backup)
                    assert point["vm"]["name"] == name
                    assert (None in {disk["name"] for disk in point["disks"]}) == (name is None)
