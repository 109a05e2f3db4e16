# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact reads from streams, which may return fewer bytes than asked for."""

from __future__ import annotations

from collections.abc import Callable

from pitr.errors import FormatError


def read_exactly(read: Callable[[int], bytes], length: int, *, name: str = "stream") -> bytes:
    """Call `read` until it has returned `length` bytes, and return these. Raises FormatError at an early end."""
    parts = []
    while length:
        part = read(length)
        if not part:
            raise FormatError(f"the {name} ends too early")
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
