# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository on a real file system without links and modes, from a backup to prune."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pitr.endpoints.images.raw_file import RawFileSink
from pitr.errors import BusyError, UsageError
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import VMName
from pitr.repository import Repository
from pitr.repository.marker import keeps_modes
from tests.support import no_links
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import chain_of_three, check_contents, check_verified, unnamed_files


def test_points_are_created_read_verified_and_pruned_on_exfat(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    with no_links.exfat(tmp_path) as folder:
        stored, vm = chain_of_three(folder / "repository", memory_engine)
        name = VMName(vm.id, vm.name)
        with Repository.open(stored.path) as repository:
            assert not keeps_modes(repository.location)
            with (
                repository.lock_vm(name),
                Repository.open(stored.path) as other,
                pytest.raises(BusyError, match="another pitr works"),
                other.lock_vm(name),
            ):
                pass
        check_contents(stored.path, stored)
        assert check_verified(stored.path, at_least=set(stored.contents)) == set(stored.contents)
        kept = stored.back_up(vm, full=True)
        with Repository.open(stored.path) as repository:
            assert not repository.rebuild_catalog().differences
            prune(
                repository,
                Retention(last=1),
                [name],
                grace=timedelta(seconds=-1),
                notify=lambda line: None,
            )
            assert [one.backup_id for one in repository.catalog.points()] == [kept.backup_id]
        assert unnamed_files(stored.path) == set()
        assert list((stored.path / "tmp").iterdir()) == []


def test_an_image_on_exfat_is_named_when_complete_and_overwrites_nothing(tmp_path: Path) -> None:
    with no_links.exfat(tmp_path) as folder:
        sink = RawFileSink(folder / "disk.raw", 1 << 20)
        with sink.open_writer() as writer:
            writer.write(4096, memoryview(b"data"))
            writer.zero(0, 4096)
        assert not (folder / "disk.raw").exists()
        sink.flush()
        assert (folder / "disk.raw").read_bytes() == bytes(4096) + b"data" + bytes((1 << 20) - 4100)
        second = RawFileSink(folder / "other.raw", 4096)
        (folder / "other.raw").write_bytes(b"mine")
        with pytest.raises(UsageError, match="already exists"):
            second.flush()
        second.abort()
        assert (folder / "other.raw").read_bytes() == b"mine"
        assert sorted(path.name for path in folder.iterdir()) == ["disk.raw", "other.raw"]
