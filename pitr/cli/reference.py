# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference of all commands, docs/cli.md, made from what their help says: `make docs`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer

from pitr.cli.app import ENTRIES, app, load
from pitr.cli.options import shared_names

#: Options that the command line library adds, and words for in its own way.
_OF_THE_LIBRARY = ("help", "install_completion", "show_completion")
_HEAD = """\
# The commands

This page is made from the commands' own help: run `make docs` after changing one, a test fails when it is stale.
What the JSON documents hold is in [json.md](json.md), and what the words mean in [design.md](design.md).
"""


def commands() -> dict[str, Any]:
    """All commands with their full names, in the order of the help; a group's commands stand for the group."""
    return dict(_leaves())


def markdown() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    every = commands()
    parts = [
        _HEAD,
        "## Options of all commands\n\nThey may stand before or after the command's name; those of the engine only "
        "concern commands that talk to it.\n",
        _table(parameter for parameter in root.params if parameter.name not in _OF_THE_LIBRARY),
        _EXIT_CODES,
    ]
    parts += [_section(name, command) for name, command in every.items()]
    return "\n".join(parts)


_EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 3 | damage found |
| 4 | no such point, VM or disk |
| 5 | busy: another pitr works on this VM or repository |
| 6 | the engine or imageio refused, or cannot be reached |
| 128+N | stopped by signal N |
"""


def _leaves() -> Iterator[tuple[str, Any]]:
    for name in ENTRIES:
        command = load(name)
        if hasattr(command, "commands"):
            yield from ((f"pitr {name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield f"pitr {name}", command


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    shared = shared_names()
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name not in shared and parameter.name != "help"
    ]
    usage = " ".join(
        [name, *(_placeholder(argument) for argument in arguments), *(["[OPTION]..."] if options else [])]
    )
    text = _with_examples(inspect.cleandoc(command.help or ""))
    parts = [f"## {name}", "", f"    {usage}", "", text, ""]
    if arguments or options:
        parts.append(_table([*arguments, *options]))
    return "\n".join(parts)


def _with_examples(text: str) -> str:
    """The help, with the commands of its examples as code."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        head, separator, examples = paragraph.partition(": ")
        if head in ("Example", "Examples") and separator:
            joined = " ".join(examples.split())
            paragraphs.append("\n".join(f"    $ {example}" for example in joined.split("; ")))
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def _table(parameters: Any) -> str:
    rows = [f"| {_spelling(parameter)} | {_meaning(parameter)} |" for parameter in parameters]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_placeholder(parameter)}`".replace("|", "\\|")
    value = "" if parameter.is_flag else f" {_placeholder(parameter)}"
    names = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len))
    return f"{names}{f' `{value.strip()}`' if value else ''}".replace("|", "\\|")


def _placeholder(parameter: Any) -> str:
    name = str(parameter.metavar or ("N" if _is_number(parameter) else parameter.name.upper()))
    if parameter.param_type_name == "option" or parameter.required or name.startswith("["):
        return name
    return f"[{name}]{'...' if parameter.nargs == -1 else ''}"


def _is_number(parameter: Any) -> bool:
    # Where the type is to be found depends on the version of the library.
    descriptor = getattr(parameter, "type_descriptor", None)
    kind = descriptor.annotation if descriptor is not None else parameter.type.name
    return any(word in str(kind) for word in ("int", "float"))


def _meaning(parameter: Any) -> str:
    said = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    variable = parameter.envvar
    if variable:
        said += f" Environment: `{variable}`."
    default = parameter.default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        said += f" Default: {default}."
    return said


if __name__ == "__main__":
    sys.stdout.write(markdown())
