# SPDX-License-Identifier: GPL-2.0-or-later
"""How a repository protects its objects from removal: by S3's object lock, for a time after each upload."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Self, cast

from pitr import times
from pitr.errors import UsageError

LockMode = Literal["compliance", "governance"]
_LONGEST: Final = timedelta(days=36500)
_TEXT = re.compile(r"(compliance|governance):(\w+)")
#: The folders whose objects points need. Their oldest version is the true one, whatever was added later.
PROTECTED: Final = frozenset({"repository.json", "backups", "blobs", "indexes", "configurations", "keys"})


@dataclass(frozen=True, slots=True)
class Lock:
    """`compliance`: nobody can shorten the protection; `governance`: who has a special right can."""

    mode: LockMode
    period: timedelta

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read compliance:30d or governance:2w. Raises UsageError."""
        match = _TEXT.fullmatch(text.strip().lower())
        if match is None:
            raise UsageError(
                f"--lock must be a mode and a time span such as compliance:30d or governance:2w, not {text!r}"
            )
        period = times.parse_span("--lock", match[2])
        if not timedelta() < period <= _LONGEST:
            raise UsageError(
                "--lock must protect for some time, at most 100 years, for example compliance:30d"
            )
        return cls(cast(LockMode, match[1]), period)

    @classmethod
    def of_document(cls, document: dict[str, Any] | None) -> Self | None:
        """Read the lock in repository.json, which its schema has checked."""
        if document is None:
            return None
        return cls(document["mode"], timedelta(seconds=document["period"]))

    def as_document(self) -> dict[str, Any]:
        """Return the lock for repository.json."""
        return {"mode": self.mode, "period": int(self.period.total_seconds())}


def is_protected(name: str) -> bool:
    """Return whether an object of this name is protected."""
    return name.partition("/")[0] in PROTECTED
