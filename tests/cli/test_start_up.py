# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr --help` and `pitr --version` load no library that they do not need."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "pitr.cli.main",
            ["pitr.repository", "numpy", "rich", "ovirtsdk4", "sqlite3", "pycurl", "pitr.jobs"],
        ),
        ("pitr.cli.commands.status", ["numpy", "ovirtsdk4", "pycurl", "pitr.guest", "puremagic"]),
        ("pitr.cli.commands.replicate", ["numpy", "ovirtsdk4", "pycurl", "rich"]),
        ("pitr.cli.commands.diff", ["pitr.guest", "pitr.jobs.files", "ovirtsdk4", "pycurl"]),
    ],
)
def test_a_command_loads_what_it_needs(module: str, absent: list[str]) -> None:
    script = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


_INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "pitr.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from pitr.__main__ import run
sys.exit(run())
"""

_INTERRUPTED_BEFORE_THE_COMMAND = """
import os, signal, sys
from pitr.system import malloc
malloc.recycle = lambda: os.kill(os.getpid(), signal.SIGINT)
from pitr.__main__ import run
sys.exit(run())
"""

_INTERRUPTED_AFTER_THE_COMMAND = """
import atexit, os, signal, sys
sys.argv = ["pitr", "--version"]
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
from pitr.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        (_INTERRUPTED_IMPORT, -signal.SIGINT, ""),
        (_INTERRUPTED_BEFORE_THE_COMMAND, 128 + signal.SIGINT, "pitr: stopped by SIGINT.\n"),
        (_INTERRUPTED_AFTER_THE_COMMAND, 0, ""),
    ],
    ids=["while it is imported", "before the command begins", "after it has ended"],
)
def test_a_signal_outside_the_command_prints_no_traceback(program: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


_AFTER_REQUESTS_TO_A_BUCKET = """
import atexit, sys, types
sys.modules["obstore"] = types.ModuleType("obstore")
import pitr.cli.main
from pitr.__main__ import run

class TakenDown:
    def __del__(self):
        print("Python was taken down")

kept = TakenDown()
atexit.register(print, "cleaned up")
pitr.cli.main.main = lambda: print("done") or 3
sys.exit(run())
"""


def test_threads_of_obstore_cannot_change_the_exit_code() -> None:
    command = [sys.executable, "-c", _AFTER_REQUESTS_TO_A_BUCKET]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\ncleaned up\n", "")
