# SPDX-License-Identifier: GPL-2.0-or-later
"""One local oVirt for each test process, a new repository for each test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cli_runner import Pitr
from disks_and_points import nothing_open

from pitr.lab import Lab


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    with Lab(phase_lag_s=0.01) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The local oVirt, checked after each test: nothing is open, and the simulator itself has no bug."""
    shared_lab.engine.forget_requests()
    yield shared_lab
    shared_lab.engine.faults.clear()
    shared_lab.engine.phase_lag_s = 0.01
    shared_lab.engine.keep_ended(success_s=900, failure_s=1800)
    shared_lab.clock.set(datetime.now().astimezone())
    assert nothing_open(shared_lab)
    assert shared_lab.engine.failures == []
    with shared_lab.engine.state.lock:
        running = [vm.id for vm in shared_lab.engine.state.vms.values() if vm.running]
    for vm_id in running:
        shared_lab.vm(vm_id).stop()


@pytest.fixture
def pitr(lab: Lab, tmp_path: Path) -> Pitr:
    """The program `pitr`, with the lab's engine and a new repository in its environment."""
    runner = Pitr({**lab.environment(), "PITR_REPO": str(tmp_path / "repository")})
    runner("init")
    return runner
