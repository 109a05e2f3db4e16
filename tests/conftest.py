# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of all folders use. Helpers for all of them lie in core and e2e (`pythonpath` in pyproject.toml)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as repository:
        yield repository
