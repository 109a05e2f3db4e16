# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from outside, made safe to show."""

from __future__ import annotations


def printable(name: str) -> str:
    """A name from outside, fit for a terminal: control and formatting characters are shown, not sent."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
