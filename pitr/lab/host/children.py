# SPDX-License-Identifier: GPL-2.0-or-later
"""Run child processes that end with the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pitr.errors import LabError
from pitr.lab.host import launcher
from pitr.system.closing import Closes

_POLL_S = 0.005
_ASK_AGAIN_S = 0.2


class Child:
    """A running program; its output goes to a log file."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path, log_offset: int) -> None:
        self._process = process
        self._log = log
        self._log_offset = log_offset
        self.name = name

    def output(self) -> str:
        """Return the log since this program started. Other programs use the same log."""
        with self._log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode(errors="replace")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 20) -> None:
        """Wait until `ready()`. Raises LabError with the program's output when it exits or does not become ready."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_alive():
                code = self._process.returncode
                raise LabError(f"{self.name} exited with {code}: {self.output().strip()[-1000:]}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} was not ready within {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 30) -> None:
        """Terminate the program and wait; kill it after a timeout. Can be called again."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            # Again and again: qemu-nbd ignores the signal between writing its pid file and its main loop.
            self._process.terminate()
            try:
                self._process.wait(_ASK_AGAIN_S)
            except subprocess.TimeoutExpired:
                continue
            return
        self.kill()

    def kill(self) -> None:
        """Kill the program, like a power failure."""
        self._process.kill()
        self._process.wait()


class Children(Closes):
    """Starts programs; a context manager. The caller that starts a program stops it.

    The kernel's parent-death signal follows the *thread* that started a child. All children are therefore
    started from one thread that lives as long as this object, not from a request handler's that ends soon.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-children")

    def start(self, command: Sequence[str], *, pass_fds: Sequence[int] = ()) -> Child:
        """Start `command` with its output in the log, without waiting for it."""
        return self._thread.submit(self._start, command, pass_fds).result()

    def _start(self, command: Sequence[str], pass_fds: Sequence[int]) -> Child:
        with self._log.open("ab") as log:
            log_offset = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                # Ctrl-C reaches the whole process group, but the lab must stop its children in order.
                start_new_session=True,
            )
            return Child(process, Path(command[0]).name, self._log, log_offset)

    def close(self) -> None:
        self._thread.shutdown()
