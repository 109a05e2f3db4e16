# SPDX-License-Identifier: GPL-2.0-or-later
"""Served points need no engine: `pitr` is the program with a repository alone."""

from __future__ import annotations

import pytest

from tests.support.pitr import Pitr


@pytest.fixture
def pitr(command: Pitr) -> Pitr:
    return command
