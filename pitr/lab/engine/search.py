# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the engine's search language that backup clients use: `name=web* and status=up`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pitr.lab.engine.refusals import bad_request

_TERM = re.compile(r'\s*([\w.]+)\s*(!?=)\s*(?:"((?:[^"\\]|\\.)*)"|(\S+))\s*(?:and\b|$)', re.IGNORECASE)


def matches(query: str, fields: Mapping[str, str], *, case_sensitive: bool = True) -> bool:
    """Return whether an entity with `fields` matches `query`: terms joined by `and`; `*` matches any text.

    Raises Refusal (400) for an unsupported query, so that it does not look like an empty result.
    """
    position = 0
    while position < len(query):
        term = _TERM.match(query, position)
        if term is None or term[1].lower() not in fields:
            raise bad_request(f"Cannot parse the search {query!r} at column {position}")
        wanted = re.sub(r"\\(.)", r"\1", term[3]) if term[3] is not None else term[4]
        found = _like(fields[term[1].lower()], wanted, case_sensitive)
        if found != (term[2] == "="):
            return False
        position = term.end()
    return True


def _like(value: str, wanted: str, case_sensitive: bool) -> bool:
    pattern = ".*".join(re.escape(piece) for piece in wanted.split("*"))
    flags = re.DOTALL if case_sensitive else re.DOTALL | re.IGNORECASE
    return re.fullmatch(pattern, value, flags) is not None
