# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from outside, safe to show."""

from __future__ import annotations


def printable(name: str) -> str:
    """Return a name from outside with its control and formatting characters escaped, safe for a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def named(name: str, id: str) -> str:  # noqa: A002 - the field's word
    """Return the name, safe for a terminal, with the id that tells it from others of that name: "web1 (1c2d)"."""
    return f"{printable(name)} ({id})"
