# SPDX-License-Identifier: GPL-2.0-or-later
"""What is printed: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pitr.errors import PitrError
from pitr.units import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Where there is no terminal, tables are as wide as they are useful.
_WIDTH_WITHOUT_TERMINAL = 140


@dataclass(slots=True)
class _StandardOutput:
    taken: bool = False


_standard_output = _StandardOutput()


def take_standard_output(*, taken: bool = True) -> None:
    """From now on a stream goes to standard output; documents go to standard error, on one line."""
    _standard_output.taken = taken


class Output:
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
        sys.stdout.buffer.write(orjson.dumps(document, option=indent | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()

    def show(self, *renderables: RenderableType) -> None:
        from rich.console import Console

        # A stream must not be followed by a table: whoever reads it would refuse it.
        out = sys.stderr if _standard_output.taken else sys.stdout
        width = None if out.isatty() or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
        console = Console(file=out, width=width, highlight=False, soft_wrap=False)
        for renderable in renderables:
            console.print(renderable, markup=False)

    def notify(self, message: str) -> None:
        """One line that a person should see while the work goes on."""
        # In one piece: several threads may have something to say.
        sys.stderr.write(f"pitr: {one_line(message)}\n")
        sys.stderr.flush()

    def failure(self, error: PitrError) -> int:
        """Say what failed; return its exit code."""
        self.notify(f"{error.message}{'' if error.message.endswith('.') else '.'} {error.advice}".strip())
        for note in getattr(error, "__notes__", ()):
            self.notify(note)
        if self.json:
            self.document(error_document(error))
        return error.exit_code


def error_document(error: PitrError) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": error.message, "advice": error.advice}}


def one_line(message: str) -> str:
    return printable(" ".join(message.split()))
