# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of a VM whose rollback in place has not ended."""

from __future__ import annotations

from pitr.lab import Lab
from pitr.repository import Repository, rollbacks
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr


def test_a_disk_that_may_hold_two_states_is_not_backed_up(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB, MiB, running=False)
    first, second = vm.disks
    point = pitr.backup(vm.name)["backup_id"]
    with Repository.open(pitr.repository) as repository:
        (begun,) = rollbacks.begin(repository.store, vm.id, [first.id], point, point)
    error = pitr.json("backup", vm.name, code=5)["error"]
    assert "a rollback of VM" in error["message"] and "d0 may hold" in error["message"]
    assert f"pitr rollback --continue {vm.name}" in error["advice"]
    assert len(pitr.backup(vm.name, "--disk", second.name)["disks"]) == 1
    # A disk that the VM no longer has stops nothing.
    vm.detach(first)
    pitr.backup(vm.name)
    vm.attach(first)
    with Repository.open(pitr.repository) as repository:
        begun.end(repository.store)
    pitr.backup(vm.name)
