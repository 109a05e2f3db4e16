# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `pitr`: runs a command, and turns whatever happens into one clear line and an exit code."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import typer

from pitr.cli.app import app
from pitr.cli.display.output import CannotPrint, Printer, take_standard_output
from pitr.errors import Interrupted, PitrError, UsageError
from pitr.system import malloc
from pitr.system.signals import ENDING

#: The base of the command line library's own errors; it has no public name in all its versions.
_LibraryError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code (docs/cli.md)."""
    given = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    output = Printer(json=wants_json(given))
    take_standard_output(taken=False)
    for signum in ENDING:
        signal.signal(signum, _interrupt)
    _allow_many_files()
    # numpy's linear algebra, which pitr has no use for, would start a thread for each core, and have it spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    malloc.recycle()
    try:
        return _carried_out(given, output)
    except (BrokenPipeError, SystemExit) as error:
        # The command line library makes an end of the program, with exit code 1, of any closed pipe that it meets.
        broken = error if isinstance(error, BrokenPipeError) else error.__context__
        if not isinstance(broken, BrokenPipeError):
            raise
        if _readers_have_gone():
            return 128 + signal.SIGPIPE
        # Not our output, but something else that was written to.
        return output.failure(_defect(broken))
    except CannotPrint as error:
        # No document either, and nothing that is tried once more when Python ends.
        output.notify(f"{error.message}.")
        _into_nothing(sys.stdout.fileno())
        return error.exit_code


def _carried_out(given: list[str], output: Printer) -> int:
    try:
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
    except Exception as error:  # noqa: BLE001 - the last resort: a defect of pitr's, said as one
        if "--debug" in given:
            traceback.print_exc()
        return output.failure(_defect(error))


def _run(arguments: list[str]) -> int:
    result = app(arguments, prog_name="pitr", standalone_mode=False)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _readers_have_gone() -> bool:
    """Whether whoever read our output has gone (`pitr list | head`): nothing more can be said there, and is not."""
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
    """Who closes a standard stream wants nothing of it. But the next file that is opened would get its number."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - for good


def wants_json(arguments: list[str]) -> bool:
    """Whether JSON is asked for, also where the rest of the command line makes no sense."""
    for at, argument in enumerate(arguments):
        if argument in ("--output", "-o") and arguments[at + 1 : at + 2] == ["json"]:
            return True
        if argument in ("--output=json", "-ojson"):
            return True
    return False


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"See '{context.command_path} --help'." if context is not None else "See 'pitr --help'."


def _words(error: Exception) -> str:
    # What is missing is told by this method only.
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(message).rstrip(".").replace("Value error, ", "", 1)


def _defect(error: Exception) -> PitrError:
    return PitrError(
        f"a defect in pitr: {type(error).__name__}: {error}",
        "Run it again with --debug and report what it prints.",
    )


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


def _allow_many_files() -> None:
    """A long chain has a blob for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
