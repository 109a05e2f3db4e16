# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes for people."""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40


def human_size(size: int) -> str:
    """A size in bytes with a binary unit: 512 B, 1.5 KiB, 20 GiB."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.5 or unit == "PiB":
            break
    return f"{value:.3g} {unit}"


def printable(name: str) -> str:
    """A name from outside, fit for a terminal: control and formatting characters are shown, not sent."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
