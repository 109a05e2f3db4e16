# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's commands, run by a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from pitr.errors import Interrupted, ProgramFailed
from pitr.system.process import STARTER, death_signal_launcher
from pitr.system.signals import Signals

_STOP_TIMEOUT_S: Final = 10.0


#: Runs the command only if its parent is still pitr, which may have died before the parent-death signal was set.
_SHELL: Final = '[ "$PPID" = "$0" ] && exec sh -c "$1"'


def run_shell(command: str, env: Mapping[str, str]) -> int:
    """Run a command line in the shell, with `env` added to pitr's environment. Return its exit code.

    The exit code is 128+N if signal N ended the command. The command shares pitr's terminal, Ctrl-C included. Call
    this in the main thread. SIGINT, SIGTERM and SIGHUP first stop the command and all that it started; on a terminal,
    where all are one process group, only the shell. The shell gets SIGTERM when pitr is killed. Raises Interrupted
    after a signal, once the command has exited, and ProgramFailed if the command cannot start.
    """
    # From here on signals raise no exception, which could come before the process is known.
    with Signals() as signals:
        own_group = not _has_terminal()
        process = _start_shell(command, env, own_group=own_group)

        def wait() -> None:
            # WNOWAIT leaves a zombie, so no other process can get its id or its group's id.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            signals.wake()

        waiting = threading.Thread(target=wait, name="command", daemon=True)
        waiting.start()
        signum = signals.wait()
        if signum is not None:
            # Ctrl-C on a terminal has reached the command already, which may handle it in its own way.
            if signum != signal.SIGINT or own_group:
                _send(process, signal.SIGTERM, own_group)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            # Ignore further signals: timeout(1) sends each signal twice.
            while signals.wait(max(0.0, deadline - time.monotonic())) is not None:
                pass
            # This also stops processes that the shell started in the background.
            _send(process, signal.SIGKILL, own_group)
        waiting.join()
        code = process.wait()
    if signum is not None:
        raise Interrupted(signum)
    return code if code >= 0 else 128 - code


def _has_terminal() -> bool:
    """Return whether pitr is in the foreground of a terminal, which a process in another group could not read."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _start_shell(command: str, env: Mapping[str, str], *, own_group: bool) -> subprocess.Popen[bytes]:
    launcher = death_signal_launcher()
    shell = ["sh", "-c", _SHELL, str(os.getpid()), command] if launcher else ["sh", "-c", command]
    try:
        return STARTER.submit(
            subprocess.Popen,
            [*launcher, *shell],
            env={**os.environ, **env},
            process_group=0 if own_group else None,
        ).result()
    except OSError as error:
        raise ProgramFailed(f"the command cannot start: {error.strerror}") from error


def _send(process: subprocess.Popen[bytes], signum: int, own_group: bool) -> None:
    if own_group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
    else:
        os.kill(process.pid, signum)
