# SPDX-License-Identifier: GPL-2.0-or-later
"""Convert the SDK's values, which can all be absent, to plain ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import Enum

from pitr.errors import EngineError

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_uuid(text: str) -> bool:
    """Return whether `text` has the format of the engine's ids."""
    return _UUID.fullmatch(text) is not None


def is_path_segment(text: str) -> bool:
    """Return whether a URL's path can contain `text` unquoted. Ids from the command line go into paths."""
    return _PATH_SEGMENT.fullmatch(text) is not None


def enum_text(value: Enum | None, absent: str = "unknown") -> str:
    """Return the API's word for an SDK enum; `absent` if the SDK does not know it."""
    return absent if value is None else str(value.value)


def utc(value: datetime | None, what: str) -> datetime | None:
    """Return the engine's time `value` in UTC.

    Raises EngineError for a time without a time zone, because its instant is unknown.
    """
    if value is None:
        return None
    if value.tzinfo is None:
        raise EngineError(f"the engine reports {what} without a time zone: {value.isoformat()}")
    return value.astimezone(UTC)


def required(value: str | None, what: str) -> str:
    """Return `value`. Raises EngineError when the engine's answer lacks it."""
    if not value:
        raise EngineError(f"the engine's answer lacks {what}")
    return value
