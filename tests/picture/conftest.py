# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories as in tests/core, the program as in tests/e2e."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "core"), str(_TESTS / "e2e")]

from cli_runner import Pitr  # noqa: E402

from pitr.repository import Repository  # noqa: E402


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture
def command(repository: Repository) -> Pitr:
    """The program `pitr` with this repository, UTC, and no terminal."""
    return Pitr({"PITR_REPO": str(repository.path), "TZ": "UTC", "COLUMNS": "140"})
