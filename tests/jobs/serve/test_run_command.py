# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr serve --run`: the command never outlives pitr, whichever signal arrives and whenever."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.repository import Repository
from tests.support.pitr import PATIENCE_S, Pitr, ended, wait_until
from tests.support.serving import store_chain

pytestmark = pytest.mark.usefixtures("quick_disk")

AT_THE_END = "2030-01-01T00:00Z"
ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
#: Runs a command line as `pitr serve --run` does, without opening a repository.
_ALONE = """
import signal, sys
from pitr.cli import main
from pitr.errors import Interrupted
from pitr.system.shell import run_shell

for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, main._Interrupt())
print(flush=True)
try:
    sys.exit(run_shell(sys.argv[1], {}))
except Interrupted as error:
    sys.exit(error.exit_code)
"""
#: The signal arrives inside Popen: before there is a child, or before its caller knows it.
_INSIDE = """
import os, subprocess, time

real = subprocess.Popen._execute_child

def interrupted(self, *arguments):
    {before}
    real(self, *arguments)
    {after}

def interrupt():
    os.kill(os.getpid(), {signum})
    # The main thread gets the signal before this continues.
    time.sleep(0.2)

subprocess.Popen._execute_child = interrupted
"""


@contextmanager
def _marked(program: str, command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program whose children inherit a mark. None of them is left at the end of the test."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", program, command],
        env={**os.environ, "PITR_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process, mark
        finally:
            for pid in _with_mark(mark):
                os.kill(pid, signal.SIGKILL)


def _with_mark(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes()
            is_zombie = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if mark.encode() in environment and not is_zombie:
            found.append(int(path.name))
    return found


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_inside_the_start_does_not_leave_the_command(signum: signal.Signals, when: str) -> None:
    moments = {"before": "pass", "after": "pass", when: "interrupt()"}
    program = _INSIDE.format(signum=int(signum), **moments) + _ALONE
    with _marked(program, "sleep 60; exit 9") as (process, mark):
        assert process.wait(PATIENCE_S) == 128 + signum
        assert _with_mark(mark) == []
        assert process.communicate() == ("\n", "")


def test_signals_at_random_moments_do_not_leave_the_command() -> None:
    chance = random.Random(20)
    for _ in range(30):
        with _marked(_ALONE, "sleep 60 & sleep 60; exit 9") as (process, mark):
            assert process.stdout is not None and process.stdout.readline() == "\n"
            # Most of these moments are during the start, which takes some milliseconds.
            for _ in range(chance.randint(1, 4)):
                time.sleep(chance.uniform(0, 0.006))
                process.send_signal(chance.choice(ENDING))
            process.wait(PATIENCE_S)
            # A second signal may arrive while Python shuts down.
            assert process.returncode not in (0, 9)
            assert _with_mark(mark) == []


@pytest.mark.parametrize("moment", ["in its start", "when it runs"])
def test_a_pitr_that_is_killed_takes_the_command_with_it(tmp_path: Path, moment: str) -> None:
    program = _ALONE
    if moment == "in its start":
        # pitr is dead before the command can ask for a notification of that.
        slow = tmp_path / "setpriv"
        slow.write_text(
            f"""#!/bin/sh
touch {tmp_path}/was
kill -KILL "$PPID"
while grep -q "^PPid:.$PPID$" /proc/$$/status; do :; done
PATH={os.environ["PATH"]} exec setpriv "$@"
"""
        )
        slow.chmod(0o755)
        program = f"import os; os.environ['PATH'] = '{tmp_path}:' + os.environ['PATH']\n{_ALONE}"
    with _marked(program, f"touch {tmp_path}/runs; exec sleep 60") as (process, mark):
        if moment == "when it runs":
            wait_until((tmp_path / "runs").exists, "the command runs")
            process.kill()
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        wait_until(lambda: _with_mark(mark) == [], "the command has ended")
    assert (tmp_path / "was").exists() is (moment == "in its start")
    assert (tmp_path / "runs").exists() is (moment == "when it runs")


def test_all_that_the_shell_has_started_ends(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    store_chain(repository)
    program = f'(echo "$NBD_URI" > {tmp_path}/runs; sleep 61) | cat; exit 9'
    with command.process("serve", "--at", AT_THE_END, "--run", program) as process:
        wait_until((tmp_path / "runs").exists, "the command runs")
        process.terminate()
        # All of them have its standard error open.
        result = ended(process)
    assert result.code == 128 + signal.SIGTERM


@contextmanager
def _on_terminal(command: str) -> Iterator[tuple[int, int]]:
    """A program in the foreground of a terminal: its process id, and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", _ALONE, command])  # noqa: S606
    try:
        yield pid, terminal
    finally:
        os.close(terminal)


def test_on_a_terminal_the_command_reads_from_it(tmp_path: Path) -> None:
    with _on_terminal(f"read line && echo $line > {tmp_path}/read; exit 7") as (pid, terminal):
        os.write(terminal, b"typed\n")
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert (tmp_path / "read").read_text() == "typed\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_signals_end_both(tmp_path: Path, signum: signal.Signals) -> None:
    command = f"echo $$ > {tmp_path}/number; mv {tmp_path}/number {tmp_path}/runs; exec sleep 60"
    with _on_terminal(command) as (pid, terminal):
        wait_until((tmp_path / "runs").exists, "the command runs")
        if signum == signal.SIGINT:
            os.write(terminal, b"\x03")
        else:
            os.kill(pid, signum)
        started = time.monotonic()
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signum
    # It got a signal, and was not killed after a while.
    assert time.monotonic() - started < 8
    assert not Path(f"/proc/{int((tmp_path / 'runs').read_text())}").exists()
