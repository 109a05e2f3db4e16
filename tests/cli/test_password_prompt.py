# SPDX-License-Identifier: GPL-2.0-or-later
"""The password of the engine, typed at a terminal; without one, pitr never waits for it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

_COMMAND = [
    sys.executable,
    "-m",
    "pitr",
    "doctor",
    "--engine-url",
    "https://127.0.0.1:1",
    "--username",
    "bob",
]


def _environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text("")
    given = {name: value for name, value in os.environ.items() if not name.startswith("PITR_")}
    return {**given, "HOME": str(tmp_path), "PITR_CONFIG": str(tmp_path / "config.toml")}


def _typed(tmp_path: Path, text: bytes) -> tuple[int, str]:
    """Run the command at a terminal, type the text when it asks, and return the exit code and all it printed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, _COMMAND, _environment(tmp_path))  # noqa: S606
    shown = b""
    asked = 0
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
            if shown.count(b"Password of bob: ") > asked:
                asked += 1
                os.write(terminal, text)
    except OSError:
        # The end of the output of a terminal.
        pass
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert asked == 1, shown
    return os.waitstatus_to_exitcode(status), shown.decode()


def test_a_missing_password_is_asked_for_once_and_not_shown(tmp_path: Path) -> None:
    code, shown = _typed(tmp_path, b"very secret\n")
    # Nothing listens there: pitr went on to connect.
    assert code != 0 and "127.0.0.1" in shown
    assert "very secret" not in shown and "Traceback" not in shown


def test_the_end_of_the_input_is_a_plain_error(tmp_path: Path) -> None:
    code, shown = _typed(tmp_path, b"\x04")
    assert code != 0 and "no password was typed" in shown and "--password-file" in shown
    assert "Traceback" not in shown and "defect" not in shown


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_without_a_terminal_nothing_is_asked(tmp_path: Path, stdin: int) -> None:
    done = subprocess.run(
        _COMMAND,
        stdin=stdin,
        capture_output=True,
        text=True,
        env=_environment(tmp_path),
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.returncode != 0 and "Password of" not in done.stdout + done.stderr
    assert "password" in done.stdout + done.stderr
