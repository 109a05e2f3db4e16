# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Dask scheduler and real workers of pitr, as programs on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.pitr import PATIENCE_S, Pitr, wait_until


@dataclass(slots=True)
class Program:
    """A program of the fleet. `said` is its standard error so far."""

    process: subprocess.Popen[bytes]
    errors: Path

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def wait_for(self, words: str, count: int = 1) -> None:
        wait_until(lambda: self.said.count(words) >= count or self.process.poll() is not None, words)
        assert self.process.poll() is None, self.said

    def stop(self) -> int:
        """End it in order, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class TestFleet:
    """Starts programs, and ends them with the test."""

    __test__ = False
    pitr: Pitr
    folder: Path
    address: str
    stack: ExitStack
    programs: list[Program] = field(default_factory=list)

    def scheduler(self, *options: str | Path) -> Program:
        started = self._start("fleet", "scheduler", self.address, *options)
        started.wait_for("scheduling at")
        return started

    def worker(self, *options: str | Path) -> Program:
        started = self._start("worker", self.address, *options)
        started.wait_for("working for")
        return started

    def _start(self, *arguments: str | Path) -> Program:
        errors = self.folder / f"errors-{len(self.programs)}"
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pitr", *map(str, arguments)],
                env={**os.environ, **self.pitr.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        program = Program(process, errors)
        self.programs.append(program)
        self.stack.callback(_end, process)
        return program


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@contextmanager
def fleet_of(pitr: Pitr, scheme: str = "tcp") -> Iterator[TestFleet]:
    """A fleet at a free port, still without programs."""
    with tempfile.TemporaryDirectory(prefix="pitr-fleet-") as folder, ExitStack() as stack:
        yield TestFleet(pitr, Path(folder), f"{scheme}://127.0.0.1:{free_port()}", stack)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
