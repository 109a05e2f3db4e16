# SPDX-License-Identifier: GPL-2.0-or-later
"""Real pitr processes, started quickly: one process that has everything imported forks one for each command line.

It has no threads and holds nothing open, so that a fork of it is as good as a new process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, negative for a signal that killed it, and what it printed."""

    code: int
    out: str
    said: str


class PitrServer:
    """Starts pitr processes with `environment`; a context manager. `folder` is for what they print."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._folder = folder
        self._number = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # -P: this folder has a module pitr.py, which must not hide the package.
            [sys.executable, "-P", __file__],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, *arguments: str) -> Running:
        self._number += 1
        out = self._folder / f"out{self._number}"
        # Here, and not in the process: it may be killed before it has opened them.
        out.touch()
        _said(out).touch()
        pid = self._ask({"run": arguments, "out": str(out)})
        while not _takes_signals(pid):
            time.sleep(0.0005)
        return Running(self, pid, out)

    def run(self, *arguments: str) -> Done:
        return self.start(*arguments).wait()

    def _ask(self, request: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Running:
    """One process of pitr's."""

    def __init__(self, server: PitrServer, pid: int, out: Path) -> None:
        self._server = server
        self._out = out
        self.pid = pid

    def send(self, signum: int) -> None:
        """Send a signal, if it still runs: nobody has waited for it, so that the id is still its own."""
        os.kill(self.pid, signum)

    def wait(self) -> Done:
        code = self._server._ask({"wait": self.pid})
        said = _said(self._out)
        done = Done(code, self._out.read_text(), said.read_text())
        self._out.unlink()
        said.unlink()
        return done


def _said(out: Path) -> Path:
    return out.with_name(out.name + ".err")


def _takes_signals(pid: int) -> bool:
    """Tell whether the process has ended or has handlers for the signals that a test may send to it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "State" and value.strip().startswith("Z"):
            return True
        if name == "SigCgt":
            caught = int(value, 16)
            return all(caught >> (signum - 1) & 1 for signum in (signal.SIGINT, signal.SIGTERM))
    raise AssertionError("no line SigCgt")


def _serve() -> None:
    # Not Python's own handler, which the forked processes would have until pitr's is in place.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # All that any command needs, once.
    import pitr.cli.main
    import pitr.jobs.restore.to_files
    import pitr.jobs.restore.to_new_disks
    from pitr.cli.app import ENTRIES, load

    for name in ENTRIES:
        load(name)

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
            sys.stdout.flush()
            continue
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for name, handle in ((request["out"], 1), (request["out"] + ".err", 2)):
                opened = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
                os.dup2(opened, handle)
                os.close(opened)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            code = 70
            try:
                code = pitr.cli.main.main(request["run"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
