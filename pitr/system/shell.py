# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of the user's, run by a shell."""

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


#: pitr may have died before the kernel was told what to do then: the new parent is another process.
_SHELL: Final = '[ "$PPID" = "$0" ] && exec sh -c "$1"'


def run_shell(command: str, env: Mapping[str, str]) -> int:
    """Run a command line of the user's in the shell to its end, with `env` besides pitr's environment.

    Returns its exit code, 128+N where signal N ended it. It has the terminal as pitr has it, Ctrl-C included. Called
    in the main thread: whenever SIGINT, SIGTERM or SIGHUP comes, the command is ended first, with all that it has
    started (on a terminal, where all are one group: the shell alone); and the shell gets SIGTERM when pitr is killed.
    Raises Interrupted once it has ended, and ProgramFailed where it cannot be started.
    """
    # From here on a signal is no exception: that could come before we know what was started.
    with Signals() as signals:
        own_group = not _has_terminal()
        process = _start_shell(command, env, own_group=own_group)

        def wait() -> None:
            # It is left to be waited for: as long as it is, no other process gets the number of it and its group.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            signals.wake()

        waiting = threading.Thread(target=wait, name="command", daemon=True)
        waiting.start()
        signum = signals.wait()
        if signum is not None:
            # Ctrl-C on a terminal has reached the command too, and is an end in its own way there.
            if signum != signal.SIGINT or own_group:
                _send(process, signal.SIGTERM, own_group)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            # More signals change nothing: timeout(1) sends each of its own twice.
            while signals.wait(max(0.0, deadline - time.monotonic())) is not None:
                pass
            # Also what the shell has started and not waited for.
            _send(process, signal.SIGKILL, own_group)
        waiting.join()
        code = process.wait()
    if signum is not None:
        raise Interrupted(signum)
    return code if code >= 0 else 128 - code


def _has_terminal() -> bool:
    """Whether pitr is in the foreground of a terminal: what has a process group of its own could not read from it."""
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
        raise ProgramFailed(f"the command cannot be started: {error.strerror}") from error


def _send(process: subprocess.Popen[bytes], signum: int, own_group: bool) -> None:
    if own_group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
    else:
        os.kill(process.pid, signum)
