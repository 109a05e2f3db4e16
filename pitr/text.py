# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from outside, safe to show."""

from __future__ import annotations


def printable(name: str) -> str:
    """Return a name from outside with its control and formatting characters escaped, safe for a terminal."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def counted(count: int, noun: str) -> str:
    """Return the number with the noun in its form: "1 point", "2 points"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def named(name: str, id: str) -> str:
    """Return the name, safe for a terminal, with the id that tells it from others of that name: "web1 (1c2d)".

    An id that stands for a sealed name is returned once.
    """
    return printable(id) if name == id else f"{printable(name)} ({id})"
