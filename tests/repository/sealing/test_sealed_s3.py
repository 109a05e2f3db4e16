# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository
from pitr.repository.sealing.age import NoFittingIdentity
from tests.support import s3
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
