# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: lines with time, command and VM, on standard error (-v, --debug) and in a file (--log-file).

Libraries log headers and URLs, which hold tokens and tickets. So the file gets only pitr's own lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from pitr import times
from pitr.cli.display.output import SHOWN
from pitr.errors import PitrError
from pitr.reporting import about_vm, current_vm
from pitr.system.target_path import given_path
from pitr.text import printable
from pitr.version import __version__

_ROOT: Final = "pitr"
_log = logging.getLogger(__name__)
#: The handlers of the command that runs now.
_handlers: list[logging.Handler] = []


class LogFormat(StrEnum):
    """The format of the lines in the log file."""

    TEXT = "text"
    JSON = "json"


LogFileOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        envvar="PITR_LOG_FILE",
        help="Append what pitr does to this file, each line with time and VM.",
        parser=given_path("--log-file"),
    ),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        metavar="|".join(LogFormat),
        envvar="PITR_LOG_FORMAT",
        help="Format of the lines in the log file. Default: text.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the result and errors, no notes and no progress.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Also print each step, with its time.")]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where the lines go. `verbose` and `debug` say which of them standard error gets."""

    file: Path | None
    format: LogFormat
    verbose: bool
    debug: bool


@contextmanager
def logging_of(command: str, options: LogOptions) -> Iterator[None]:
    """Log the command in the block, with its begin and its end. Raises UsageError if the file cannot be opened."""
    _start(command, options)
    with about_vm(None), _begin_and_end():
        yield


@contextmanager
def _begin_and_end() -> Iterator[None]:
    began = time.monotonic()
    _log.info("started, pitr %s", __version__)
    try:
        with about_vm(None):
            yield
    except typer.Exit as left:
        _log.log(
            logging.ERROR if left.exit_code else logging.INFO, *_ended(left.exit_code, began), extra=SHOWN
        )
        raise
    except PitrError as error:
        _log.error("%s", f"{error.message}. {error.advice}".strip(), extra=SHOWN)
        _log.error(*_ended(error.exit_code, began), extra=SHOWN)
        raise
    except Exception:
        _log.error("a defect in pitr", exc_info=True, extra=SHOWN)
        raise
    _log.info(*_ended(0, began))


def _ended(code: int, began: float) -> tuple[str, int, str]:
    return "ended with exit code %d after %s", code, times.duration(time.monotonic() - began)


def _start(command: str, options: LogOptions) -> None:
    root = logging.getLogger()
    for handler in _handlers:
        root.removeHandler(handler)
        handler.close()
    _handlers.clear()
    shown = _StandardError()
    shown.setLevel(logging.DEBUG if options.debug else logging.INFO if options.verbose else logging.WARNING)
    shown.setFormatter(_Text(command, with_logger=options.debug))
    shown.addFilter(lambda record: not hasattr(record, "shown"))
    _handlers.append(shown)
    if options.file is not None:
        _handlers.append(_file(command, options.file, options.format))
    for handler in _handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(
        logging.DEBUG
        if options.debug
        else logging.INFO
        if options.verbose or options.file
        else logging.WARNING
    )


def _file(command: str, path: Path, form: LogFormat) -> logging.Handler:
    from pitr.cli.log_file import LogFile  # noqa: PLC0415 - `pitr --help` must start quickly

    handler = LogFile.opened(path)
    handler.addFilter(lambda record: record.name.partition(".")[0] == _ROOT)
    handler.setFormatter(_Json(command) if form is LogFormat.JSON else _Text(command, with_process=True))
    return handler


class _StandardError(logging.StreamHandler[TextIOWrapper]):
    """Prints the lines that the user wants to see."""


class _Text(logging.Formatter):
    """One line: local time, process, level, command, VM and message."""

    def __init__(self, command: str, *, with_process: bool = False, with_logger: bool = False) -> None:
        super().__init__()
        self._command = command
        self._with_process = with_process
        self._with_logger = with_logger

    def format(self, record: logging.LogRecord) -> str:
        local = datetime.fromtimestamp(record.created).astimezone()
        words = [local.isoformat(" ", "milliseconds")]
        if self._with_process:
            words.append(f"[{record.process}]")
        words += [record.levelname, self._command]
        vm = current_vm()
        if vm is not None:
            words.append(f"VM {printable(vm)}")
        if self._with_logger:
            words.append(record.name)
        line = f"{' '.join(words)}: {printable(' '.join(record.getMessage().split()))}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """One JSON document on each line."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": times.to_text(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "command": self._command,
            "vm": current_vm(),
            "message": " ".join(record.getMessage().split()),
            "logger": record.name,
            "pid": record.process,
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(document).decode()
