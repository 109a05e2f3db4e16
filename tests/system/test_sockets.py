# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening sockets: one of several concurrent processes gets the path, and only that one removes it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pitr.errors import BusyError, UsageError
from pitr.system import sockets
from pitr.system.sockets import unix_listener

_ROUNDS = 40
_PROCESSES = 6
#: Each round begins in all processes at once. The winner keeps the socket until its standard input ends.
_RIVAL = """
import json, sys, time
from contextlib import ExitStack
from pathlib import Path
from pitr.errors import BusyError
from pitr.system.sockets import unix_listener

won = []
print(flush=True)
start = float(sys.stdin.readline())
with ExitStack() as stack:
    for number in range({rounds}):
        while time.monotonic() < start + number * 0.02:
            pass
        try:
            stack.enter_context(unix_listener(Path(sys.argv[1]) / str(number)))
        except BusyError:
            continue
        won.append(number)
    print(json.dumps(won), flush=True)
    sys.stdin.read()
"""


def _leave_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_one_of_many_concurrent_processes_gets_a_leftover_socket(tmp_path: Path) -> None:
    for number in range(_ROUNDS):
        _leave_behind(tmp_path / str(number))
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", _RIVAL.format(rounds=_ROUNDS), tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(_PROCESSES)
    ]
    won: list[int] = []
    try:
        for rival in rivals:
            assert rival.stdout is not None and rival.stdout.readline() == "\n"
        start = time.monotonic() + 0.1
        for rival in rivals:
            assert rival.stdin is not None
            rival.stdin.write(f"{start}\n")
            rival.stdin.flush()
        for rival in rivals:
            assert rival.stdout is not None
            won += json.loads(rival.stdout.readline())
        # Exactly one process has the socket, and clients reach that process.
        assert sorted(won) == list(range(_ROUNDS))
        for number in won:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / str(number)))
        for rival in rivals:
            rival.communicate()
            assert rival.returncode == 0
    finally:
        for rival in rivals:
            rival.kill()
            rival.communicate()
    assert list(tmp_path.iterdir()) == []


def test_the_socket_of_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_listener(path):
        path.unlink()
        _leave_behind(path)
    assert path.is_socket()


def test_waiting_for_a_locked_folder_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LOCK_TIMEOUT_S", 0.2)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        with pytest.raises(BusyError, match="holds a lock on the folder"), unix_listener(tmp_path / "socket"):
            pass
    finally:
        os.close(handle)
    with unix_listener(tmp_path / "socket"):
        pass


def test_without_locks_nothing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    # As on NFS.
    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "socket"
    with unix_listener(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.accept()[0].close()
    _leave_behind(path)
    with pytest.raises(UsageError, match="left behind"), unix_listener(path):
        pass
    assert path.is_socket()
