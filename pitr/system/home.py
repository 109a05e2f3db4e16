# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's home folder, which a user without an entry in /etc/passwd does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pitr.errors import UsageError

#: Without a home folder, pitr finds no files of the user there.
_NOWHERE: Final = Path("/nonexistent")


def home_folder() -> Path:
    """Return the home folder; without one, a folder that does not exist (Debian's convention)."""
    try:
        return Path.home()
    except RuntimeError:
        return _NOWHERE


def expanded(text: str) -> Path:
    """Return a path with "~" replaced. Raises UsageError if that user has no home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"cannot tell which folder ~ is in {text}: the user has no home folder",
            "Set HOME, or write the whole path.",
        ) from None
