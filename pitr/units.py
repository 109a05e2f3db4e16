# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes as people read and type them."""

from __future__ import annotations

import re
from typing import Final

from pitr.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE: Final = re.compile(r"([0-9]{1,18})\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_FACTORS: Final = {"k": KIB, "m": MIB, "g": GIB, "t": TIB}


def parse_size(text: str) -> int:
    """Return a typed size in bytes: 512, 64k, 256m, 1 GiB. Units are binary. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", "Write a number of bytes, or 64k, 256m, 1g.")
    return int(match[1]) * (_FACTORS[match[2].lower()] if match[2] else 1)


def parse_rate(text: str | None) -> int | None:
    """Return a typed rate in bytes a second: 5M, 100m, 1 GiB/s; None for None. Raises UsageError."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip().removesuffix("/s"))
    rate = int(match[1]) * (_FACTORS[match[2].lower()] if match[2] else 1) if match else 0
    if rate == 0:
        raise UsageError(f"{text!r} is not a rate", "Write the bytes a second: --limit-rate 5M, 500k or 1G.")
    return rate


def human_size(size: int) -> str:
    """Return a size in bytes with a binary unit: 512 B, 1.5 KiB, 20 GiB."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.5 or unit == "PiB":
            break
    return f"{value:.3g} {unit}"


def in_unit_of(size: int, other: int) -> str:
    """Return `other` in the unit of `human_size(size)` and without it: "0.6"; with a unit of its own if it is small."""
    shown = human_size(size)
    number = other / (size / float(shown.split()[0])) if size else 0.0
    if not 0.1 <= number < 1000:
        return human_size(other)
    return f"{number:.2g}" if number < 10 else f"{number:.3g}"
