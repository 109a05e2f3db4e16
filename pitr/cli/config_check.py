# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a configuration with its schema (schema/config.schema.json), and say in words what is wrong.

A schema says in `x-must` what a value must be, and in `x-secret` that no message may show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import orjson

SCHEMA = "config.schema.json"
#: A file with more problems than this is not a configuration of pitr.
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A wrong setting: its `key` ("policy.nightly.drills"), what is wrong with it, and what to do."""

    key: str
    message: str
    advice: str = ""


@cache
def schema() -> dict[str, Any]:
    """Return the schema of the configuration."""
    from pitr.repository.schema import read  # noqa: PLC0415 - `pitr --help` must start quickly

    document: dict[str, Any] = orjson.loads(read(SCHEMA))
    return document


def problems(document: Mapping[str, Any]) -> list[Problem]:
    """Return all that is wrong with a configuration; it stays unchanged."""
    import fastjsonschema  # noqa: PLC0415 - a command without a configuration must not wait for it

    try:
        _validator(detailed=False)(document)
    except fastjsonschema.JsonSchemaValueException:
        # A validator with detailed errors takes three times as long to compile.
        return _detailed(deepcopy(dict(document)))
    return []


def _detailed(document: dict[str, Any]) -> list[Problem]:
    """Return the problems one by one, and remove each wrong setting from the document."""
    import fastjsonschema  # noqa: PLC0415

    found: list[Problem] = []
    while len(found) < _MOST_PROBLEMS:
        try:
            _validator(detailed=True)(document)
        except fastjsonschema.JsonSchemaValueException as error:
            for path, problem in list(_described(error)):
                found.append(problem)
                _remove(document, path)
        else:
            break
    return found


@cache
def _validator(*, detailed: bool) -> Callable[[Any], Any]:
    return _compiled(schema(), detailed=detailed)


def _compiled(definition: Mapping[str, Any], *, detailed: bool) -> Callable[[Any], Any]:
    import fastjsonschema  # noqa: PLC0415

    compiled: Callable[[Any], Any] = fastjsonschema.compile(
        dict(definition), detailed_exceptions=detailed, use_default=False
    )
    return compiled


def _described(error: Any, parents: Sequence[str] = ()) -> Iterator[tuple[list[str], Problem]]:
    """Yield the path and the description of each problem that an error of the library stands for."""
    # The library puts the name of the document before the path, and numbers for the items of lists at its end.
    path = [*parents, *error.path[1:]]
    while len(path) > 2 and path[-1].isdecimal():
        path.pop()
    definition = error.definition
    if error.rule == "additionalProperties":
        for name in sorted(error.value.keys() - definition["properties"].keys()):
            yield [*path, name], _unknown([*path, name], definition["properties"])
    elif error.rule == "propertyNames":
        names = definition["propertyNames"]
        for name in error.value:
            if not re.search(names["pattern"], name):
                key = ".".join(path)
                yield [*path, name], Problem(f"{key}.{name}", f"the table [{key}.{name}] {names['x-must']}")
    elif error.rule == "anyOf" and isinstance(error.value, dict):
        yield from _of_table(error, path)
    else:
        yield path, _wrong(".".join(path), definition, error.value)


def _of_table(error: Any, path: Sequence[str]) -> Iterator[tuple[list[str], Problem]]:
    """Yield what is wrong with a table where a table or something else is allowed."""
    import fastjsonschema  # noqa: PLC0415

    tables = [each for each in map(resolved, error.definition["anyOf"]) if each.get("type") == "object"]
    for table in tables:
        definition = {"definitions": schema()["definitions"], **table}
        try:
            _compiled(definition, detailed=True)(error.value)
        except fastjsonschema.JsonSchemaValueException as inner:
            yield from _described(inner, path)
    if not tables:
        yield list(path), _wrong(".".join(path), error.definition, error.value)


def resolved(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the definition that a reference names, with what stands beside the reference."""
    reference = definition.get("$ref")
    if reference is None:
        return definition
    named: Mapping[str, Any] = schema()["definitions"][reference.rpartition("/")[2]]
    return {**resolved(named), **{key: value for key, value in definition.items() if key != "$ref"}}


def _wrong(key: str, definition: Any, value: Any) -> Problem:
    rule = definition if isinstance(definition, dict) else {}
    shown = "" if rule.get("x-secret") else f", not {value!r}"
    return Problem(key, f"{key} {rule.get('x-must', 'has a wrong value')}{shown}")


def _unknown(path: Sequence[str], siblings: Mapping[str, Any]) -> Problem:
    """Describe an unknown key, and name the nearest known one."""
    key = ".".join(path)
    parents = "".join(f"{parent}." for parent in path[:-1])
    near = [f"{parents}{name}" for name in get_close_matches(path[-1], siblings, n=1)]
    if not near:
        # The right key in the wrong table.
        near = [known for known in _every_key(schema(), "") if known.rpartition(".")[2] == path[-1]]
    advice = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    where = f"in [{'.'.join(path[:-1])}]" if parents else "at the top"
    return Problem(
        key, f"unknown setting {key!r}", f"{advice}Valid settings {where}: {', '.join(sorted(siblings))}."
    )


def _every_key(definition: Mapping[str, Any], parents: str) -> Iterator[str]:
    """Yield the keys of all tables, with NAME for the name of a policy."""
    for name, inner in definition.get("properties", {}).items():
        yield f"{parents}{name}"
        of_name = inner.get("additionalProperties")
        if isinstance(of_name, dict):
            yield from _every_key(resolved(of_name), f"{parents}{name}.NAME.")
        else:
            yield from _every_key(resolved(inner), f"{parents}{name}.")


def _remove(document: dict[str, Any], path: Sequence[str]) -> None:
    """Remove a setting; a list with it loses all its items."""
    table: Any = document
    for part in path[:-1]:
        table = table[part]
    table.pop(path[-1], None)
