# SPDX-License-Identifier: GPL-2.0-or-later
"""Shell commands with a time limit: their output, their end, and what they started."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pitr.errors import ProgramFailed
from pitr.system.limited_shell import run_limited
from tests.support.pitr import wait_until

ENV = {"PATH": os.environ["PATH"], "NAME": "value"}


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_end_of_the_output_and_the_code_are_kept() -> None:
    told: list[str] = []
    ended = run_limited(
        "cat; echo $NAME; seq 20 >&2; exit 7", env=ENV, timeout_s=30, text="input\n", tell=told.append
    )
    assert ended.code == 7 and ended.tail == " / ".join(map(str, range(11, 21)))
    assert told[:3] == ["input", "value", "1"]
    assert run_limited("kill -9 $$", env=ENV, timeout_s=30).code == 128 + 9


def test_the_environment_is_the_given_one_only() -> None:
    told: list[str] = []
    run_limited("env", env={"PATH": ENV["PATH"], "ONLY": "this"}, timeout_s=30, tell=told.append)
    assert "ONLY=this" in told and not [line for line in told if line.startswith("HOME=")]


@pytest.mark.parametrize("how", ["timeout", "stopped"])
def test_a_command_that_must_end_takes_all_its_processes_along(how: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"trap '' TERM; sleep 100 & echo $! > {pids}; echo $$ >> {pids}; sleep 100"
    started = time.monotonic()
    with pytest.raises(ProgramFailed, match=r"did not exit|was stopped"):
        run_limited(
            command,
            env=ENV,
            timeout_s=1 if how == "timeout" else 100,
            stopped=lambda: how == "stopped" and pids.exists() and len(pids.read_text().split()) == 2,
        )
    assert time.monotonic() - started < 30
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not _is_running(pid), f"the end of {pid}")


def test_a_process_in_the_background_holds_up_nothing() -> None:
    started = time.monotonic()
    ended = run_limited("sleep 20 & echo started", env=ENV, timeout_s=60)
    assert (ended.code, ended.tail) == (0, "started")
    assert time.monotonic() - started < 10


def test_a_command_need_not_read_its_input() -> None:
    assert run_limited("exit 0", env=ENV, timeout_s=30, text="x" * (1 << 20)).code == 0
