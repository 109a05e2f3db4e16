# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the commands of the demo: show each command as a user types it, run it, and show its output."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from pitr.errors import ProgramFailed

_STOP_S = 20

#: Shows one line of the demo.
Say = Callable[[str], None]


class Shell:
    """Runs commands in `folder` with `variables` in their environment; `say` shows each line to the user."""

    def __init__(self, folder: Path, variables: Mapping[str, str], say: Say) -> None:
        self._folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PITR_")}
        self._environment = {**inherited, **variables}
        self._variables = dict(variables)
        self.say = say

    def introduce(self) -> None:
        """Show the commands that prepare a shell for the first command."""
        self.say(f"$ cd {shlex.quote(str(self._folder))}")
        for name, value in self._variables.items():
            self.say(f"$ export {name}={shlex.quote(value)}")

    def pitr(self, *arguments: str) -> float:
        """Show and run `pitr ARGUMENTS` and return its duration in seconds. Raises ProgramFailed."""
        return self.run("pitr", *arguments, program=_PITR)

    def run(self, name: str, *arguments: str, program: tuple[str, ...] | None = None) -> float:
        """Show and run a command with its output and return its duration in seconds. Raises ProgramFailed.

        `program` is the program to run if it differs from `name`, for example because it is not on the PATH.
        """
        self.say("")
        self.say(f"$ {shlex.join([name, *arguments])}")
        started = time.monotonic()
        process = subprocess.Popen(
            [*(program or (name,)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env=self._environment,
            text=True,
            errors="replace",
        )
        try:
            for line in process.stdout or ():
                if line.strip():
                    self.say(line.rstrip())
            code = process.wait()
        except BaseException:
            # After an interrupt, give the command time to end its transfers, as at a terminal.
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        if code != 0:
            raise ProgramFailed(f"'{shlex.join([name, *arguments])}' exited with {code}")
        return time.monotonic() - started

    def query(self, *arguments: str) -> dict[str, object]:
        """Run `pitr ARGUMENTS --output json` without showing it and return the document. Raises ProgramFailed."""
        done = subprocess.run(
            [*_PITR, *arguments, "--output", "json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=self._folder,
            env=self._environment,
        )
        document = orjson.loads(done.stdout or b"{}")
        if done.returncode != 0:
            raise ProgramFailed(f"'pitr {shlex.join(arguments)}' failed: {document.get('error')}")
        return dict(document)


_PITR = (sys.executable, "-m", "pitr")
