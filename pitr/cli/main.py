# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `pitr`: run a command, print a failure as one line, and exit with its code."""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Final

import typer

from pitr.cli.app import app
from pitr.cli.display.output import CannotPrint, Printer, take_standard_output
from pitr.errors import Interrupted, PitrError, UsageError
from pitr.system import malloc
from pitr.system.signals import ENDING, not_ignored

_REPETITION_S: Final = 0.2

#: The base class of the command-line library's errors. Not every version of the library gives it a public name.
_LibraryError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code (docs/cli.md)."""
    given = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    output = Printer(json=wants(given, "json"), nagios=wants(given, "nagios"))
    take_standard_output(taken=False)
    try:
        _take_signals()
        _allow_many_files()
        # pitr does not use numpy's linear algebra, which would start a spinning thread for each core.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        malloc.recycle()
        return _carried_out(given, output)
    except Interrupted as error:
        # Before the command began, or after it had failed.
        return output.failure(error)
    except (BrokenPipeError, SystemExit) as error:
        # On a closed pipe, the command-line library exits the program with code 1.
        broken = error if isinstance(error, BrokenPipeError) else error.__context__
        if not isinstance(broken, BrokenPipeError):
            raise
        if _readers_have_gone():
            return 128 + signal.SIGPIPE
        # pitr wrote to another pipe, not to its own output.
        return output.failure(_defect(broken))
    except CannotPrint as error:
        # Print no document, and drop buffered output: Python would try to write it again when it exits.
        output.notify(f"{error.message}.")
        _into_nothing(sys.stdout.fileno())
        return error.exit_code


def _take_signals() -> None:
    interrupt = _Interrupt()
    for signum in not_ignored(ENDING):
        signal.signal(signum, interrupt)


def _carried_out(given: list[str], output: Printer) -> int:
    try:
        _refuse_broken_text(given)
        return _run(given)
    except _LibraryError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)  # noqa: T201 - the help text itself
            return UsageError.exit_code
        usage = UsageError(_words(error), _help_hint(error))
        return output.failure(usage)
    except (BrokenPipeError, CannotPrint):
        raise
    except PitrError as error:
        if "--debug" in given:
            traceback.print_exc()
        return output.failure(error)
    except Exception as error:  # noqa: BLE001 - the last resort: report a defect of pitr
        if "--debug" in given:
            traceback.print_exc()
        return output.failure(_defect(error))


def _refuse_broken_text(arguments: list[str]) -> None:
    """Raise UsageError for an argument or a setting in the environment that is not UTF-8: JSON cannot hold it."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PITR_")}
    texts = [("the argument", argument) for argument in arguments]
    for what, text in [*texts, *((f"the variable {name}", value) for name, value in settings.items())]:
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = text.encode(errors="backslashreplace").decode()
            raise UsageError(
                f"{what} {shown!r} is not UTF-8", "Rename the file, or use a UTF-8 locale for the terminal."
            ) from None


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        # As in git and docker: `pitr help files cp` is `pitr files cp --help`.
        arguments = [*arguments[1:], "--help"]
    result = app(arguments, prog_name="pitr", standalone_mode=False)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _readers_have_gone() -> bool:
    """Tell whether the reader of the output is gone (`pitr list | head`); if so, print nothing more there."""
    gone = False
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            _into_nothing(descriptor)
            gone = True
    return gone


def _into_nothing(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _open_closed_streams() -> None:
    """Open /dev/null for each closed standard stream; else the next file that pitr opens would get its number."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system picks the lowest free number: this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - stays open


def wants(arguments: list[str], form: str) -> bool:
    """Tell whether the command line asks for this form of the output, even if the rest of it is invalid."""
    for at, argument in enumerate(arguments):
        if argument in ("--output", "-o") and arguments[at + 1 : at + 2] == [form]:
            return True
        if argument in (f"--output={form}", f"-o{form}"):
            return True
    return False


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"See '{context.command_path} --help'." if context is not None else "See 'pitr --help'."


def _words(error: Exception) -> str:
    # For a missing argument, only this method names it.
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(message).rstrip(".").replace("Value error, ", "", 1)


def _defect(error: Exception) -> PitrError:
    return PitrError(
        f"a defect in pitr: {type(error).__name__}: {error}",
        "Run the command again with --debug and report its output.",
    )


class _Interrupt:
    """Raises Interrupted for a signal.

    A repetition is the same signal: timeout(1) sends each signal twice, and the second one must not end a cleanup.
    """

    def __init__(self) -> None:
        self._last_s = -math.inf

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        repeated = now - self._last_s < _REPETITION_S
        self._last_s = now
        if not repeated:
            raise Interrupted(signum)


def _allow_many_files() -> None:
    """Raise the limit of open files: a long chain has one blob for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
