# SPDX-License-Identifier: GPL-2.0-or-later
"""Generate docs/cli.md, the reference of all commands, from their help: `make docs`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer

from pitr.cli.app import ENTRIES, app, load
from pitr.cli.options import shared_names

#: Options that the command-line library adds and describes itself.
_OF_THE_LIBRARY = ("help", "install_completion", "show_completion")
_HEAD = """\
# The commands

`make docs` generates this page from the commands' own help. [json.md](json.md) describes the JSON documents,
[design.md](design.md) the terms.
"""


def commands() -> dict[str, Any]:
    """Return all commands by full name, in the order of the help. A group is replaced by its commands."""
    return dict(_leaves())


def markdown() -> str:
    """Return the whole page."""
    root = typer.main.get_command(app)
    every = commands()
    parts = [
        _HEAD,
        "## Options of all commands\n\nYou can give them before or after the command's name. The options for "
        "the engine apply only to commands that connect to it.\n",
        _table(parameter for parameter in root.params if parameter.name not in _OF_THE_LIBRARY),
        "## Exit codes\n\n| code | meaning |\n|---|---|",
        *(f"| {code} | {text} |" for code, text in EXIT_CODES),
        "",
    ]
    parts += [_section(name, command) for name, command in every.items()]
    return "\n".join(parts)


#: Each exit code and its meaning.
EXIT_CODES = (
    ("0", "success"),
    ("1", "failure"),
    ("2", "wrong usage"),
    ("3", "damage found"),
    ("4", "no such point, VM or disk"),
    ("5", "busy: another pitr uses this VM or repository"),
    ("6", "the engine, imageio or the object store refused, failed or is unreachable"),
    ("128+N", "stopped by signal N"),
)


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
        [name, *(placeholder(argument) for argument in arguments), *(["[OPTION]..."] if options else [])]
    )
    text = _with_examples(inspect.cleandoc(command.help or ""))
    parts = [f"## {name}", "", f"    {usage}", "", text, ""]
    if arguments or options:
        parts.append(_table([*arguments, *options]))
    return "\n".join(parts)


def _with_examples(text: str) -> str:
    """Return the help with its examples as code blocks."""
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
    rows = [f"| {_spelling(parameter)} | {meaning(parameter)} |" for parameter in parameters]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{placeholder(parameter)}`".replace("|", "\\|")
    value = "" if parameter.is_flag else f" {placeholder(parameter)}"
    names = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len))
    return f"{names}{f' `{value.strip()}`' if value else ''}".replace("|", "\\|")


def placeholder(parameter: Any) -> str:
    """Return the name of a value as the help shows it: [VM], SPAN."""
    name = str(parameter.metavar or ("N" if _is_number(parameter) else parameter.name.upper()))
    if parameter.param_type_name == "option" or parameter.required or name.startswith("["):
        return name
    return f"[{name}]{'...' if parameter.nargs == -1 else ''}"


def _is_number(parameter: Any) -> bool:
    # The place of the type depends on the version of the library.
    descriptor = getattr(parameter, "type_descriptor", None)
    kind = descriptor.annotation if descriptor is not None else parameter.type.name
    return any(word in str(kind) for word in ("int", "float"))


def meaning(parameter: Any) -> str:
    """Return what the help says about an argument or an option."""
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
