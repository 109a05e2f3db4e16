# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories as in tests/core, the program as in tests/e2e."""

from __future__ import annotations

import pytest
from cli_runner import Pitr

from pitr.repository import Repository


@pytest.fixture
def command(repository: Repository) -> Pitr:
    """The program `pitr` with this repository, UTC, and no terminal."""
    return Pitr({"PITR_REPO": str(repository.path), "TZ": "UTC", "COLUMNS": "140"})
