# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams that are closed, as daemons leave them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pitr import Pitr


def _shell(pitr: Pitr, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command.replace("PITR", f"{sys.executable} -m pitr")],
        env={**os.environ, **pitr.environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_not_taken_up_by_files_of_the_repository(
    pitr: Pitr, tmp_path: Path, closed: str
) -> None:
    image = tmp_path / "stream"
    meta = json.dumps(
        {"virtual-size": 1 << 20, "data-size": 1 << 20, "date": "2020-06-30T20:00:00Z", "incremental": False}
    )
    image.write_bytes(
        b"meta %016x %016x\r\n%s\r\n" % (0, len(meta), meta.encode())
        + b"data %016x %016x\r\n%s\r\n" % (0, 1 << 20, b"x" * (1 << 20))
        + b"stop %016x %016x\r\n" % (0, 0)
    )
    found = _shell(pitr, f"PITR import {image} --vm web1 --disk system {closed}")
    assert (found.returncode, found.stdout) == (0, ""), found
    assert len(pitr.json("list")["points"]) == 1
    assert pitr.json("verify")["ok"] and pitr.json("catalog", "check")["ok"]
