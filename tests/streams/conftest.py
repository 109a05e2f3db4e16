# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories as in tests/core, the local oVirt and the program as in tests/e2e."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "core"), str(_TESTS / "e2e")]

from cli_runner import Pitr  # noqa: E402
from disks_and_points import nothing_open  # noqa: E402

from pitr.lab import Lab  # noqa: E402
from pitr.repository import Repository  # noqa: E402


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as repository:
        yield repository


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
