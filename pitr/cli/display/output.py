# SPDX-License-Identifier: GPL-2.0-or-later
"""What is printed: results on standard output, everything else on standard error."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from pitr.errors import PitrError
from pitr.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Where there is no terminal, nothing is folded, cut or left out: a line stays a line.
_WIDTH_WITHOUT_TERMINAL = 1 << 16


@dataclass(slots=True)
class _StandardOutput:
    taken: bool = False


_standard_output = _StandardOutput()


def take_standard_output(*, taken: bool = True) -> None:
    """From now on a stream goes to standard output; documents go to standard error, on one line."""
    _standard_output.taken = taken


class CannotPrint(PitrError):
    """Standard output takes nothing more: it is a file on a full disk, perhaps."""


def write(data: bytes, to: TextIO | None = None) -> None:
    """Write all of it to standard output, or `to`. Raises CannotPrint, and BrokenPipeError where nobody reads."""
    out = to or sys.stdout
    try:
        out.flush()
        view = memoryview(data)
        while view:
            # With PYTHONUNBUFFERED it is the system's write, which takes a part only before it fails.
            view = view[out.buffer.write(view) :]
        out.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotPrint(f"cannot write to standard output: {error.strerror}") from error


class Printer:
    """Prints as text or JSON. In JSON there is exactly one document on standard output."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def document(self, document: dict[str, Any], *, one_line: bool = False) -> None:
        """Print the document; on `one_line` where a program reads it while the command goes on."""
        import orjson

        if _standard_output.taken:
            print(orjson.dumps(document).decode(), file=sys.stderr, flush=True)  # noqa: T201
            return
        indent = 0 if one_line else orjson.OPT_INDENT_2
        write(orjson.dumps(document, option=indent | orjson.OPT_APPEND_NEWLINE))

    def show(self, *renderables: RenderableType) -> None:
        from rich.console import Console

        # A stream must not be followed by a table: whoever reads it would refuse it.
        out = sys.stderr if _standard_output.taken else sys.stdout
        # Given the output itself, the library would end the program when nobody reads: pitr.cli.main does that.
        printed = io.BytesIO()
        file = io.TextIOWrapper(printed, encoding=out.encoding, errors="backslashreplace", write_through=True)
        terminal = out.isatty()
        console = Console(
            file=file,
            force_terminal=terminal or None,
            width=None if terminal or os.environ.get("COLUMNS") else _WIDTH_WITHOUT_TERMINAL,
            highlight=False,
            soft_wrap=False,
        )
        for renderable in renderables:
            console.print(renderable, markup=False)
        write(printed.getvalue(), out)

    def notify(self, message: str) -> None:
        """One line that a person should see while the work goes on."""
        # In one piece: several threads may have something to say.
        sys.stderr.write(f"pitr: {one_line(message)}\n")
        sys.stderr.flush()

    def failure(self, error: PitrError) -> int:
        """Say what failed; return its exit code."""
        self.notify(
            f"{error.message}{'' if error.message.endswith(('.', '?')) else '.'} {error.advice}".strip()
        )
        for note in getattr(error, "__notes__", ()):
            self.notify(note)
        if self.json:
            self.document(error_document(error))
        return error.exit_code


def error_document(error: PitrError) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": error.message, "advice": error.advice}}


def one_line(message: str) -> str:
    return printable(" ".join(message.split()))
