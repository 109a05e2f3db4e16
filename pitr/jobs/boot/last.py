# SPDX-License-Identifier: GPL-2.0-or-later
"""The last boot of a point, for people and for programs."""

from __future__ import annotations

from typing import Any

from pitr import times
from pitr.jobs import documents
from pitr.repository.drills import LastBoot
from pitr.text import printable

_EVIDENCE = {"guest-agent": "the guest agent", "console": "the console", "screen": "the screen"}


def in_words(last: LastBoot) -> str:
    """Return one line about a boot."""
    boot = last.boot
    return (
        f"boot {boot.result} by {_EVIDENCE[boot.evidence]} after {times.duration(boot.duration_ms / 1000)}, drill of "
        f"{times.for_people(last.time)} ({printable(boot.message)})"
    )


def document(last: LastBoot) -> dict[str, Any]:
    """Return the document of a point's last boot: as in DRILL, with the time of the drill."""
    return {"time": times.to_text(last.time), **documents.boot(last.boot, last.name)}
