# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository with points whose content is known, and looks at it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.endpoints.points.point import open_point
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup
from pitr.repository import Repository, names
from tests.support.memory_engine import MemoryEngine, MemoryVM

MiB = 1 << 20
#: `make soak` leaves nothing out.
SOAK = "PITR_SOAK" in os.environ


@dataclass
class Stored:
    """A repository, the engine that it is of, and what each point must hold: bytes by disk, by backup."""

    path: Path
    engine: MemoryEngine
    contents: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)

    def back_up(self, vm: MemoryVM, path: Path | None = None, **options: Any) -> Backup:
        with Repository.open(path or self.path) as repository:
            backup = self.engine.back_up(repository, vm, **options)
        self.contents[backup.backup_id] = {disk: bytes(content) for disk, content in vm.disks.items()}
        return backup


def chain_of_three(path: Path, engine: MemoryEngine) -> tuple[Stored, MemoryVM]:
    """A VM with two small disks; a full and two incrementals with data and zeroes."""
    with Repository.create(path):
        stored = Stored(path, engine)
    chance = random.Random(7)
    vm = engine.add_vm("web1", chance.randbytes(MiB) + bytes(MiB + 512), chance.randbytes(MiB // 4))
    stored.back_up(vm)
    for _ in range(2):
        change(vm, chance)
        stored.back_up(vm)
    return stored, vm


def change(vm: MemoryVM, chance: random.Random) -> None:
    for disk in vm.disks.values():
        for _ in range(3):
            start = chance.randrange(len(disk) - 70_000)
            disk[start : start + 70_000] = chance.randbytes(70_000)
        start = chance.randrange(len(disk) - 70_000)
        disk[start : start + 70_000] = bytes(70_000)


def content(repository: Repository, backup: Backup) -> dict[str, bytes]:
    """What the disks of a point hold."""
    found = {}
    for stream in backup.streams:
        with open_point(repository, backup, stream) as source, source.open_reader() as reader:
            whole = bytearray(source.size)
            with memoryview(whole) as view:
                for extent in source.extents():
                    if not extent.zero:
                        place = view[extent.start : extent.start + extent.length]
                        reader.read_ranges([(extent.start, extent.length)], place)
        found[stream.disk_id] = bytes(whole)
    return found


def check_verified(path: Path, *, at_least: set[str]) -> set[str]:
    """Check that nothing is damaged, and that `at_least` these points are there; return all.

    A point is there as well if another record has taken its place.
    """
    with Repository.open(path) as repository:
        result = verify(repository, Scope(), "full", workers=1)
        assert result.damage == []
        points = repository.catalog.points()
        ids = {backup.backup_id for backup in points}
        assert at_least <= ids | {backup.known_as for backup in points}
        assert result.points == len(ids) == len(list(repository.store.list(names.BACKUPS)))
    return ids


def check_contents(path: Path, stored: Stored) -> None:
    """Check that the points whose content is known hold it, and those that stand for one of them."""
    with Repository.open(path) as repository:
        for backup in repository.catalog.points():
            expected = stored.contents.get(backup.backup_id) or stored.contents.get(backup.stands_for or "")
            if expected is not None:
                assert content(repository, backup) == expected


def unnamed_files(path: Path) -> set[str]:
    """Stored objects and scratch files that no point names."""
    with Repository.open(path) as repository:
        named = {
            name
            for backup in repository.catalog.points()
            for stream in backup.streams
            for name in (
                names.blob(stream.disk_id, stream.stream_id),
                names.index(stream.disk_id, stream.stream_id),
                *([names.index_copy(stream.disk_id, stream.stream_id)] if stream.index_copy else []),
                *(names.blob(part.disk_id, part.stream_id) for part in stream.parts),
                names.configuration(backup.configuration.digest if backup.configuration else ""),
            )
        }
    found = {
        str(file.relative_to(path))
        for kind in ("blobs", "indexes", "configurations")
        for file in path.glob(f"{kind}/**/*")
        if file.is_file()
    }
    found |= {str(file.relative_to(path)) for file in path.glob("tmp/**/*")}
    return found - named
