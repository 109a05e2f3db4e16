# SPDX-License-Identifier: GPL-2.0-or-later
"""From the SDK's values, where anything may be absent, to plain ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import Enum

from pitr.errors import EngineError

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_uuid(text: str) -> bool:
    """Whether `text` is written like the ids that engines give."""
    return _UUID.fullmatch(text) is not None


def is_path_segment(text: str) -> bool:
    """Whether `text` can stand in a URL's path as it is: ids from a command line go into paths."""
    return _PATH_SEGMENT.fullmatch(text) is not None


def enum_text(value: Enum | None, absent: str = "unknown") -> str:
    """Return the wire's word of an SDK enum; `absent` where there is none that the SDK knows."""
    return absent if value is None else str(value.value)


def utc(value: datetime | None, what: str) -> datetime | None:
    """Return the engine's time `value` in UTC.

    Raises EngineError for a time without a zone: its instant would be a guess.
    """
    if value is None:
        return None
    if value.tzinfo is None:
        raise EngineError(f"the engine gives {what} without a time zone: {value.isoformat()}")
    return value.astimezone(UTC)


def required(value: str | None, what: str) -> str:
    """Return `value`. Raises EngineError when the engine's answer lacks it."""
    if not value:
        raise EngineError(f"the engine's answer lacks {what}")
    return value
