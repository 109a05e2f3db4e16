# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's password, typed at a terminal."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from functools import cache

from pitr.errors import UsageError


def prompt() -> Callable[[str], str] | None:
    """Return what asks for the password; None without a terminal, where nobody could answer."""
    # Without standard input, Python has None in its place.
    return _ask if sys.stdin is not None and sys.stdin.isatty() else None


@cache
def _ask(question: str) -> str:
    """Return the password that the user types, once for the whole command. Raises UsageError for the end of input."""
    try:
        return getpass.getpass(question)
    except EOFError:
        raise UsageError("no password was typed", "Type it, or give --password-file FILE.") from None
