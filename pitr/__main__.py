# SPDX-License-Identifier: GPL-2.0-or-later
"""The process of a command: `pitr`, and `python -m pitr`.

A signal while pitr is being imported ends the process without a word, as it does with any program that has not begun.
Once the command has ended and its exit code is known, a signal changes nothing.
"""

import atexit
import gc
import os
import signal
import sys
from contextlib import suppress


def run() -> int:
    """Run the command of `sys.argv`; return its exit code (docs/cli.md)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What is imported stays: looking for garbage in it takes a tenth of the time. Commands collect it (cli/app.py).
    gc.disable()
    from pitr.cli.main import main  # noqa: PLC0415 - the import is what may be interrupted
    from pitr.system.signals import ENDING, not_ignored  # noqa: PLC0415

    code = main()
    for signum in not_ignored(ENDING):
        signal.signal(signum, lambda *_: os._exit(code))
    if "obstore" in sys.modules:
        _end(code)
    return code


def _end(code: int) -> None:
    """End the process without taking Python down.

    The threads of obstore may still need Python for a moment after their last request. They abort the process if it is
    gone, and the exit code is wrong then.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(run())
