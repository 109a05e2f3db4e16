# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole VMs on a local oVirt. Runner, guests and oracle are those of tests/e2e."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cli_runner import Pitr
from disks_and_points import nothing_open

from pitr.lab import Lab


@pytest.fixture(scope="session")
def vms_lab() -> Iterator[Lab]:
    with Lab(phase_lag_s=0.005) as lab:
        yield lab


@pytest.fixture
def lab(vms_lab: Lab) -> Iterator[Lab]:
    """The local oVirt, emptied and checked after each test."""
    vms_lab.engine.forget_requests()
    yield vms_lab
    vms_lab.engine.faults.clear()
    vms_lab.clock.set(datetime.now().astimezone())
    assert nothing_open(vms_lab)
    assert vms_lab.engine.failures == []
    with vms_lab.engine.state.lock:
        everything = list(vms_lab.engine.state.vms)
    for vm_id in everything:
        vm = vms_lab.vm(vm_id)
        if vm.running:
            vm.stop()
        vm.remove()
    for disk in vms_lab.disks:
        disk.delete()


@pytest.fixture
def pitr(lab: Lab, tmp_path: Path) -> Pitr:
    """The program `pitr`, with the lab's engine, a new repository and no configuration file but its own."""
    config = tmp_path / "config.toml"
    config.touch()
    runner = Pitr(
        {
            **lab.environment(),
            "PITR_REPO": str(tmp_path / "repository"),
            "PITR_CONFIG": str(config),
            "COLUMNS": "400",
        }
    )
    runner("init")
    return runner
