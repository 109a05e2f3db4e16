# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories as in tests/core, the program as in tests/e2e."""

from __future__ import annotations

import os

import pytest
from cli_runner import Pitr

from pitr.repository import Repository


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out fsync, which no test here can see the effect of."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def pitr(repository: Repository) -> Pitr:
    """The program `pitr` with this repository; no engine."""
    return Pitr({"PITR_REPO": str(repository.path)})
