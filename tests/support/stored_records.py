# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories of records without streams, for what depends only on their number."""

from __future__ import annotations

from datetime import timedelta

from blake3 import blake3

from pitr.model import StoredObject, VMName
from pitr.repository import Repository, names, record
from tests.support.points import FIRST_POINT, backup_of, fake_stream


def many(repository: Repository, *, vms: int, points: int, start: int = 0) -> None:
    """Store so many points of so many VMs each, which are called vm0, vm1 and so on, or from another `start`."""
    for number in range(start, start + vms):
        vm = VMName(f"00000000-0000-4000-8000-{number:012}", f"vm{number}")
        folder = repository.path / names.records_of(vm.id)
        folder.mkdir(parents=True)
        entries = []
        for hours in range(points):
            backup = backup_of([fake_stream(number)], vm=vm, point=FIRST_POINT + timedelta(hours=hours))
            name = names.record(vm.id, backup.point, backup.backup_id)
            stored = record.encode(backup)
            (repository.path / name).write_bytes(stored)
            entries.append((backup, name, StoredObject(len(stored), blake3(stored).hexdigest())))
        repository.catalog.add(entries)
