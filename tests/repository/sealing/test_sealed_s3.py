# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from pitr.errors import NoFittingIdentity
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, catalog_snapshots
from tests.support import counted, s3
from tests.support.memory_engine import MemoryEngine
from tests.support.sealed import ALICE, BOB, VM_NAME, SealedPlace
from tests.support.stored_points import content


def test_a_bucket_holds_a_sealed_repository(
    sealed: SealedPlace, memory_engine: MemoryEngine, tmp_path: Path
) -> None:
    location = s3.place()
    vm = memory_engine.add_vm("bucket-vm", b"content" * 100_000)
    sealed.use()
    recipients = [str(each.recipient) for each in (ALICE, BOB)]
    with Repository.create(location, recipients=recipients) as repository:
        for _ in range(2):
            backup = memory_engine.back_up(repository, vm)
            vm.disks[backup.streams[0].disk_id][:5] = b"other"
        assert {each.vm.name for each in repository.catalog.points()} == {vm.id}
        assert verify(repository, Scope(), "full", workers=1).damage == []
        with pytest.raises(NoFittingIdentity):
            content(repository, backup)
        names = [name for folder in ("blobs", "indexes") for name in repository.store.inner.list(folder)]  # type: ignore[attr-defined]
        assert len(names) == 4 and all(name.endswith(".age") for name in names)
    sealed.use(BOB)
    with Repository.open(location) as repository:
        newest, first = repository.catalog.points()
        assert newest.vm.name == "bucket-vm" != VM_NAME
        disk_id = newest.streams[0].disk_id
        assert content(repository, first)[disk_id] == b"content" * 100_000
        assert content(repository, newest)[disk_id] == b"other" + (b"content" * 100_000)[5:]
        assert verify(repository, Scope(), "full", workers=1).damage == []


def test_snapshots_of_the_catalog_show_names_to_identities_only(
    sealed: SealedPlace, memory_engine: MemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of host takes the snapshots of its kind, and nobody else reads a name in the bucket."""
    location = s3.place()
    vm = memory_engine.add_vm("bucket-vm", b"content" * 1000)
    sealed.use()
    with Repository.create(location, recipients=[str(each.recipient) for each in (ALICE, BOB)]) as repository:
        backup = memory_engine.back_up(repository, vm)
        nameless = catalog_snapshots.store_snapshot(repository)
    sealed.use(ALICE, trust=True)
    with Repository.open(location) as repository:
        assert len(repository.catalog.points()) == 1
        named = catalog_snapshots.store_snapshot(repository)
        assert nameless is not None and named is not None and named.endswith(".db.zst.age")
        raw = {name: repository.store.read(name, limit=1 << 24) for name in (nameless, named)}
        assert raw[named].startswith(b"age-encryption.org/v1\n")
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(raw[nameless])
        assert b"bucket-vm" not in plain and vm.id.encode() in plain
    for held, name, took in (((), vm.id, nameless), ((BOB,), "bucket-vm", named)):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"new-{name}"))
        sealed.use(*held)
        with counted.requests() as made, Repository.open(location) as repository:
            [shown] = repository.shown_catalog.points()
        assert (shown.backup_id, shown.vm.name) == (backup.backup_id, name)
        assert f"GET {took}" in made and not [each for each in made if each.startswith("GET backups/")]
