# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot of a point, as a drill stores it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Literal, cast

Result = Literal["passed", "failed", "unsure"]
Evidence = Literal["guest-agent", "console", "screen"]


@dataclass(frozen=True, slots=True)
class Boot:
    """The result of a boot. `screenshot` is a PNG; None if qemu gave no picture. `message` is for people."""

    result: Result
    evidence: Evidence
    duration_ms: int
    message: str
    screenshot: bytes | None = None


def document(boot: Boot) -> dict[str, Any]:
    """Return the stored form of a boot."""
    stored = {
        "result": boot.result,
        "evidence": boot.evidence,
        "duration_ms": boot.duration_ms,
        "message": boot.message,
    }
    if boot.screenshot is not None:
        stored["screenshot"] = b64encode(boot.screenshot).decode()
    return stored


def of(stored: dict[str, Any] | None) -> Boot | None:
    """Return the boot in a document that its schema has checked; None if the drill booted nothing."""
    if stored is None:
        return None
    return Boot(
        cast(Result, stored["result"]),
        cast(Evidence, stored["evidence"]),
        stored["duration_ms"],
        stored["message"],
        _picture(stored.get("screenshot")),
    )


def _picture(text: str | None) -> bytes | None:
    """Return the picture; None for a sealed one that no identity opens, or if it is no PNG."""
    try:
        data = b64decode(text or "", validate=True)
    except ValueError:
        return None
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None
