# SPDX-License-Identifier: GPL-2.0-or-later
"""Printing: results go to standard output, everything else to standard error."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

import orjson

from pitr.errors import PitrError
from pitr.reporting import DocumentList
from pitr.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Without a terminal, texts do not wrap, and no column is dropped. Tables may have a width of their own.
WIDTH_WITHOUT_TERMINAL = 1 << 16
#: Output is written when it is this long.
_PIECE = 1 << 18


#: Marks a line of the log that is printed anyway: standard error must not get it twice.
SHOWN: Final = {"shown": True}
_log = logging.getLogger("pitr")

#: The exit code of a plugin of Nagios that cannot tell the state.
NAGIOS_UNKNOWN = 3

#: After a word, so that the path ".." stays.
_DOUBLE_STOP = re.compile(r"(?<=[\w)'\"\]])([.?!])\.(?= |$)")


@dataclass(slots=True)
class _StandardOutput:
    taken: bool = False


_standard_output = _StandardOutput()


def take_standard_output(*, taken: bool = True) -> None:
    """Reserve standard output for a stream. From now on documents go to standard error, each on one line."""
    _standard_output.taken = taken


class CannotPrint(PitrError):
    """Standard output cannot be written, for example because it is a file on a full disk."""


def write(data: bytes, to: TextIO | None = None) -> None:
    """Write all of `data` to standard output, or to `to`. Raises CannotPrint, or BrokenPipeError without a reader."""
    out = to or sys.stdout
    try:
        out.flush()
        view = memoryview(data)
        while view:
            # With PYTHONUNBUFFERED this is the system call, which may write only a part before it fails.
            view = view[out.buffer.write(view) :]
        out.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotPrint(f"cannot write to standard output: {error.strerror}") from error


def _encoded(document: Any, option: int = 0) -> bytes:
    """Return the JSON of a document. Bytes of paths that are not UTF-8 are escaped, as in the output of `files`."""
    try:
        return orjson.dumps(document, option=option, default=_as_list)
    except TypeError:
        return orjson.dumps(_escaped(document), option=option)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, DocumentList):
        return list(value)
    raise TypeError(type(value))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list | tuple | DocumentList) else value


class Printer:
    """Print as text or as JSON. With JSON, standard output gets exactly one document.

    With `nagios`, a failure is a state that pitr cannot tell, as Nagios wants it.
    """

    def __init__(self, *, json: bool, quiet: bool = False, nagios: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self._nagios = nagios

    def document(self, document: dict[str, Any], *, one_line: bool = False) -> None:
        """Print the document. Use `one_line` if a program reads it while the command still runs."""
        if _standard_output.taken:
            print(_encoded(document).decode(), file=sys.stderr, flush=True)  # noqa: T201
            return
        if one_line:
            write(_encoded(document, orjson.OPT_APPEND_NEWLINE))
            return
        gathered = bytearray()
        for piece in _json_pieces(document):
            gathered += piece
            if len(gathered) > _PIECE:
                write(bytes(gathered))
                gathered.clear()
        write(bytes(gathered))

    def show(self, *renderables: RenderableType) -> None:
        """Print text and tables for people."""
        # A table after a stream on standard output would make the reader refuse the stream.
        out = sys.stderr if _standard_output.taken else sys.stdout
        terminal = out.isatty()
        width = None if terminal or os.environ.get("COLUMNS") else WIDTH_WITHOUT_TERMINAL
        for piece in _rendered(renderables, out.encoding, width, terminal=terminal):
            write(piece, out)

    def notify(self, message: str) -> None:
        """Print one line on standard error while the work goes on, and log it. Quiet printers only log it."""
        _log.info("%s", message, extra=SHOWN)
        if not self.quiet:
            self._print_line(message)

    def _print_line(self, message: str) -> None:
        # One write for each line, because several threads may print.
        # A message that ends with a full stop of its own, or with a question, gets no second one.
        line = _DOUBLE_STOP.sub(r"\1", one_line(message))
        sys.stderr.write(f"pitr: {line}\n")
        sys.stderr.flush()

    def failure(self, error: PitrError) -> int:
        """Print the error and its advice; return its exit code."""
        text = f"{error.message}{'' if error.message.endswith(('.', '?')) else '.'} {error.advice}".strip()
        if self._nagios:
            # A bar would begin the performance data.
            write(f"PITR UNKNOWN: {one_line(text).replace('|', '/')}\n".encode())
            return NAGIOS_UNKNOWN
        self._print_line(text)
        for note in getattr(error, "__notes__", ()):
            self._print_line(note)
        if self.json:
            self.document(error_document(error))
        return error.exit_code


def as_json(document: dict[str, Any]) -> bytes:
    """Return a document as `Printer.document` prints it."""
    return b"".join(_json_pieces(document))


def _json_pieces(document: dict[str, Any]) -> Iterator[bytes]:
    """Yield the JSON of a document in pieces, each item of a DocumentList on its own."""
    if not any(isinstance(value, DocumentList) for value in document.values()):
        yield _encoded(document, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return
    before = b"{"
    for key, value in document.items():
        yield before + b"\n  " + _encoded(key) + b": "
        before = b","
        if isinstance(value, DocumentList):
            yield from _list_pieces(value)
        else:
            yield _encoded(value, orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
    yield b"\n}\n"


def _list_pieces(items: DocumentList) -> Iterator[bytes]:
    before = b"["
    for item in items:
        # A string in JSON has no line break.
        yield before + b"\n    " + _encoded(item, orjson.OPT_INDENT_2).replace(b"\n", b"\n    ")
        before = b","
    yield b"[]" if before == b"[" else b"\n  ]"


def as_text(*renderables: RenderableType) -> bytes:
    """Return text and tables as `Printer.show` prints them to a file."""
    return b"".join(_rendered(renderables, "utf-8", WIDTH_WITHOUT_TERMINAL, terminal=False))


def _rendered(
    renderables: Iterable[RenderableType], encoding: str, width: int | None, *, terminal: bool
) -> Iterator[bytes]:
    """Yield the text in pieces, so that a table of millions of rows needs little memory."""
    from rich.console import Console  # noqa: PLC0415 - `pitr --help` must start quickly

    # The library would exit the program itself on a broken pipe; pitr.cli.main handles that.
    printed = io.BytesIO()
    file = io.TextIOWrapper(printed, encoding=encoding, errors="backslashreplace", write_through=True)
    console = Console(
        file=file, force_terminal=terminal or None, width=width, highlight=False, soft_wrap=False
    )
    for renderable in renderables:
        parts = getattr(renderable, "parts", None)
        for part in (renderable,) if parts is None else parts(console):
            console.print(part, markup=False)
            if printed.tell() > _PIECE:
                yield printed.getvalue()
                printed.seek(0)
                printed.truncate()
    yield printed.getvalue()


def error_document(error: PitrError) -> dict[str, Any]:
    """Return the JSON document of a failure."""
    return {"error": {"type": type(error).__name__, "message": error.message, "advice": error.advice}}


def one_line(message: str) -> str:
    """Return the message on one line, without control characters."""
    return printable(" ".join(message.split()))
