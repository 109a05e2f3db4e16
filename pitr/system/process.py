# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that runs other programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Final

from pitr.errors import Interrupted, ProgramFailed, ProgramMissing
from pitr.system.signals import Signals

#: Program to the Debian package that has it.
DEBIAN_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "zstd": "zstd",
}


def require(*programs: str) -> None:
    """Check that all `programs` are on PATH.

    Raises ProgramMissing, one line with the Debian packages of all that are missing.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = sorted({DEBIAN_PACKAGES.get(program, program) for program in missing})
        raise ProgramMissing(
            f"these programs are not installed: {', '.join(missing)}",
            f"On Debian: apt-get install {' '.join(packages)}",
        )


def run(
    command: Sequence[str], *, timeout_s: float | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run `command` to its end and return its standard output.

    Raises ProgramMissing, or ProgramFailed with the last lines of its standard error.
    """
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env=env,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        require(command[0])
        raise
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{command[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ProgramFailed(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout


# A parent-death signal comes when the *thread* that started the child ends: this one lives as long as pitr does.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")


def start(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `command` in the background; what it says goes to `output`. The caller ends it.

    It gets SIGTERM when pitr dies, and does not get the terminal's Ctrl-C: whoever uses it ends it in order.
    """
    return _starter.submit(
        subprocess.Popen,
        [*_ended_with_pitr(), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
    ).result()


def start_piped(
    command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` with a pipe to or from it (subprocess.PIPE), unbuffered; what it says goes where pitr's goes.

    The caller ends it: it does not get the terminal's Ctrl-C. Its output, unless it is a pipe, goes to standard
    error. Raises ProgramMissing.
    """
    if shutil.which(command[0]) is None:
        raise ProgramMissing(f"the command {command[0]} is not there", "Check its name and PATH.")
    return _starter.submit(
        subprocess.Popen,
        [*_ended_with_pitr(), *command],
        stdin=stdin,
        stdout=2 if stdout is None else stdout,
        bufsize=0,
        process_group=0,
    ).result()


def _ended_with_pitr() -> list[str]:
    """What stands before a command that is to get SIGTERM when pitr dies."""
    # setpriv belongs to util-linux; without it the command works too, but outlives a pitr that is killed.
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


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
    launcher = _ended_with_pitr()
    shell = ["sh", "-c", _SHELL, str(os.getpid()), command] if launcher else ["sh", "-c", command]
    try:
        return _starter.submit(
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
