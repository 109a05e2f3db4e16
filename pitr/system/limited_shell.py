# SPDX-License-Identifier: GPL-2.0-or-later
"""Shell commands that run beside the work, in any thread: with a time limit, and stopped when the work stops."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

from pitr.errors import ProgramFailed
from pitr.system.process import STARTER, death_signal_launcher

_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
#: A process that the command left in the background may keep its output open.
_OUTPUT_TIMEOUT_S: Final = 1.0
_TAIL_LINES: Final = 10
_LONGEST_LINE: Final = 500


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (128+N after signal N), and the end of its output."""

    code: int
    tail: str


def run_limited(
    command: str,
    *,
    env: Mapping[str, str],
    timeout_s: float,
    text: str = "",
    tell: Callable[[str], None] = lambda line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Ended:
    """Run a command line in the shell with `env` as its whole environment and `text` as its input.

    `tell` gets each line of its output. When `timeout_s` seconds are over, `stopped` returns True, or an exception
    such as Interrupted comes, the command and all that it started are stopped. Raises ProgramFailed if it cannot start
    or was stopped.
    """
    process = _start(command, env)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    reader = threading.Thread(target=_read, args=(process.stdout, tail, tell), name="output", daemon=True)
    reader.start()
    threading.Thread(target=_write, args=(process.stdin, text), name="input", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    try:
        while process.poll() is None:
            if time.monotonic() >= deadline:
                raise ProgramFailed(f"it did not exit within {timeout_s:.0f} s")
            if stopped():
                raise ProgramFailed("it was stopped")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
    except BaseException:
        _stop(process)
        raise
    reader.join(_OUTPUT_TIMEOUT_S)
    code = process.returncode
    return Ended(code if code >= 0 else 128 - code, " / ".join(tail))


def _start(command: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    starting = STARTER.submit(
        subprocess.Popen,
        [*death_signal_launcher(), "sh", "-c", command],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        return starting.result()
    except OSError as error:
        raise ProgramFailed(f"it cannot start: {error.strerror}") from error
    except BaseException:
        # A signal: the command may have started all the same.
        _stop(starting.result())
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command and all of its group."""
    try:
        _send(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
    finally:
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process: subprocess.Popen[bytes], signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def _write(stdin: IO[bytes], text: str) -> None:
    # A command need not read its input.
    with suppress(OSError), stdin:
        stdin.write(text.encode())


def _read(stdout: IO[bytes], tail: deque[str], tell: Callable[[str], None]) -> None:
    with stdout:
        while line := stdout.readline(_LONGEST_LINE):
            said = line.decode(errors="replace").rstrip()
            if said:
                tail.append(said)
                tell(said)
