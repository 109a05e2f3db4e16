# SPDX-License-Identifier: GPL-2.0-or-later
"""Generate the manual pages (docs/man) of pitr and of all its commands from their help: `make man`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from pitr.cli.app import app
from pitr.cli.options import shared_names
from pitr.cli.reference import EXIT_CODES, commands, meaning, placeholder
from pitr.version import __version__

_SEE = "The documentation is in the source: README.md, docs/cli.md, docs/json.md, docs/configuration.md."


def pages() -> dict[str, str]:
    """Return all pages by file name."""
    every = commands()
    found = {"pitr.1": _of_pitr(every)}
    for name, command in every.items():
        found[f"{_page(name)}.1"] = _of_command(name, command)
    return found


def write(folder: Path) -> None:
    """Write all pages to `folder`, and remove pages of commands that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    new = pages()
    for path in folder.glob("*.1"):
        if path.name not in new:
            path.unlink()
    for name, text in new.items():
        (folder / name).write_text(text)


def _page(name: str) -> str:
    return name.replace(" ", "-")


def _of_pitr(every: dict[str, Any]) -> str:
    root = typer.main.get_command(app)
    lines = [
        _head("pitr"),
        ".SH NAME",
        r"pitr \- point-in-time restore of oVirt VM disks",
        ".SH SYNOPSIS",
        r".B pitr",
        r"[\fIOPTION\fR]... \fICOMMAND\fR [\fIARGUMENT\fR]...",
        ".SH DESCRIPTION",
        *_paragraphs(root.help or ""),
        ".SH COMMANDS",
    ]
    for name, command in every.items():
        lines += [
            ".TP",
            rf"\fB{_escaped(_page(name))}\fR(1)",
            _escaped(command.get_short_help_str(limit=200)),
        ]
    lines += [
        ".SH OPTIONS",
        "The options can stand before or after the name of the command.",
        *_options(root.params),
    ]
    lines.append(".SH EXIT STATUS")
    for code, text in EXIT_CODES:
        lines += [".TP", rf"\fB{_escaped(code)}\fR", _escaped(text)]
    return "\n".join([*lines, ".SH SEE ALSO", _escaped(_SEE), ""])


def _of_command(name: str, command: Any) -> str:
    shared = shared_names()
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [
        each
        for each in command.params
        if each.param_type_name == "option" and each.name not in shared and each.name != "help"
    ]
    synopsis = " ".join(rf"\fI{_escaped(placeholder(each))}\fR" for each in arguments)
    lines = [
        _head(_page(name)),
        ".SH NAME",
        rf"{_escaped(_page(name))} \- {_escaped(command.get_short_help_str(limit=200).rstrip('.'))}",
        ".SH SYNOPSIS",
        rf".B {_escaped(name)}",
        rf"{synopsis} [\fIOPTION\fR]...".strip(),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    if arguments:
        lines.append(".SH ARGUMENTS")
        for each in arguments:
            lines += [".TP", rf"\fI{_escaped(placeholder(each))}\fR", _escaped(meaning(each))]
    if options:
        lines += [".SH OPTIONS", *_options(options)]
    return "\n".join([*lines, ".SH SEE ALSO", rf"\fBpitr\fR(1). {_escaped(_SEE)}", ""])


def _head(page: str) -> str:
    return rf'.TH "{_escaped(page.upper())}" "1" "" "pitr {_escaped(__version__)}" "pitr"'


def _options(parameters: Iterable[Any]) -> Iterator[str]:
    for each in parameters:
        if each.param_type_name != "option" or each.name == "help":
            continue
        names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in sorted(each.opts, key=len))
        value = "" if each.is_flag else rf" \fI{_escaped(placeholder(each))}\fR"
        yield from (".TP", f"{names}{value}", _escaped(meaning(each)) or r"\&")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the help as paragraphs, with each example on a line of its own."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        head, separator, examples = paragraph.partition(": ")
        if head in ("Example", "Examples") and separator:
            yield f"{head}:"
            for example in " ".join(examples.split()).split("; "):
                yield from (".PP", ".RS 4", ".nf", _escaped(example), ".fi", ".RE")
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Return text that roff prints as it is."""
    plain = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "").replace("…", "...")
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


if __name__ == "__main__":
    write(Path(sys.argv[1]))
