# SPDX-License-Identifier: GPL-2.0-or-later
"""The person at the keyboard: commands are shown as one could type them, run for real, and their output is shown."""

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

#: Takes one line of the story.
Say = Callable[[str], None]


class Shell:
    """Runs commands in `folder` with `variables` in their environment; `say` gets each line that a person sees."""

    def __init__(self, folder: Path, variables: Mapping[str, str], say: Say) -> None:
        self._folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PITR_")}
        self._environment = {**inherited, **variables}
        self._variables = dict(variables)
        self.say = say

    def introduce(self) -> None:
        """Show what a reader would have to type before the first command."""
        self.say(f"$ cd {shlex.quote(str(self._folder))}")
        for name, value in self._variables.items():
            self.say(f"$ export {name}={shlex.quote(value)}")

    def pitr(self, *arguments: str) -> float:
        """Show and run `pitr ARGUMENTS`; return the seconds that it took. Raises ProgramFailed."""
        return self.run("pitr", *arguments, program=_PITR)

    def run(self, name: str, *arguments: str, program: tuple[str, ...] | None = None) -> float:
        """Show and run a command with all it says; return its seconds. Raises ProgramFailed.

        `program` is what stands for `name` when that is not on everybody's PATH.
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
            # An interrupt: the command gets the time to end its transfers, as it would at a terminal.
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
            raise ProgramFailed(f"'{shlex.join([name, *arguments])}' ended with exit code {code}")
        return time.monotonic() - started

    def query(self, *arguments: str) -> dict[str, object]:
        """Run `pitr ARGUMENTS --output json` unseen; return its document. Raises ProgramFailed."""
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
