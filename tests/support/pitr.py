# SPDX-License-Identifier: GPL-2.0-or-later
"""Running `pitr` as a user does: arguments and environment in; exit code, standard output and error out."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from pitr.cli import main

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: No test depends on it: it only ends one that would hang.
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        document = self.json
        assert set(document) == {"error"} and set(document["error"]) == {"type", "message", "advice"}
        return document["error"]

    @property
    def complaint(self) -> str:
        """The line that tells what failed: the last one, and no traceback before it."""
        lines = self.stderr.splitlines()
        assert lines and lines[-1].startswith("pitr: "), self.stderr
        assert "Traceback" not in self.stderr and "a defect in pitr" not in self.stderr, self.stderr
        return lines[-1]


class Pitr:
    """Runs commands: called, in this process, which is quick; or with `process`, as a program of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    @property
    def repository(self) -> Path:
        return Path(self.environment["PITR_REPO"])

    def with_environment(self, **changes: str) -> Pitr:
        return Pitr({**self.environment, **changes})

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        """Run a command that is to end with `code`."""
        result = self.run(*arguments)
        assert result.code == code, result
        return result

    def run(self, *arguments: str | Path) -> Result:
        """Run a command, however it ends."""
        given = [str(argument) for argument in arguments]
        # Programs write bytes to both, too.
        printed = io.BytesIO(), io.BytesIO()
        out, err = (io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in printed)
        handlers = {signum: signal.getsignal(signum) for signum in _SIGNALS}
        with _environment(self.environment), redirect_stdout(out), redirect_stderr(err):
            try:
                found = main.main(given)
            finally:
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)
        return Result(tuple(given), found, *(stream.getvalue().decode() for stream in printed))

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """Run a command with `--output json` and return its document."""
        return self(*arguments, "--output", "json", code=code).json

    @contextmanager
    def process(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Run a command as a program; it is killed when the block is left while it runs."""
        command = [sys.executable, "-m", "pitr", *(str(argument) for argument in arguments)]
        environment = {**os.environ, **self.environment}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def backup(self, vm: str, *options: str) -> Any:
        """Take a backup and return its POINT."""
        document = self.json("backup", vm, *options)
        assert document["failed"] == [] and len(document["backups"]) == 1
        return document["backups"][0]

    def restore_to_file(self, point: Any, path: Path, *options: str) -> Any:
        """Restore a POINT and return the RESTORED documents of its disks."""
        document = self.json("restore", "--point", point["backup_id"], "--to-file", path, *options)
        assert document["point"]["backup_id"] == point["backup_id"]
        return document["disks"]


def ended(process: subprocess.Popen[str]) -> Result:
    """Wait for a program's end."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return Result(tuple(process.args), process.returncode, out, err)  # type: ignore[arg-type]


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.005)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, changes):
        time.tzset()
        yield
    time.tzset()
