# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories as in tests/core, the local oVirt and the program as in tests/e2e."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Pitr
from disks_and_points import nothing_open

from pitr.lab import Lab
from pitr.repository import Repository


@pytest.fixture
def command(repository: Repository) -> Pitr:
    """The program `pitr` with this repository; no engine."""
    return Pitr({"PITR_REPO": str(repository.path)})


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    with Lab(phase_lag_s=0.01) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    yield shared_lab
    shared_lab.engine.faults.clear()
    assert nothing_open(shared_lab)
    assert shared_lab.engine.failures == []


@pytest.fixture
def pitr(lab: Lab, tmp_path: Path) -> Pitr:
    runner = Pitr({**lab.environment(), "PITR_REPO": str(tmp_path / "backups")})
    runner("init")
    return runner
