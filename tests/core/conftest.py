# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _quick_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out fsync, which no test can see the effect of and which takes most of the time; stores keep theirs."""
    if not request.node.path.name.startswith("test_store"):
        monkeypatch.setattr(os, "fsync", lambda _: None)
