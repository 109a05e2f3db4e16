# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr --help` and `pitr --version` load no library that they do not need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "pitr.cli.main",
            ["pitr.repository", "numpy", "rich", "ovirtsdk4", "sqlite3", "pycurl", "pitr.jobs"],
        ),
        ("pitr.cli.commands.status", ["numpy", "ovirtsdk4", "pycurl", "pitr.guest", "puremagic"]),
        ("pitr.cli.commands.diff", ["pitr.guest", "pitr.jobs.files", "ovirtsdk4", "pycurl"]),
    ],
)
def test_a_command_loads_what_it_needs(module: str, absent: list[str]) -> None:
    script = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
