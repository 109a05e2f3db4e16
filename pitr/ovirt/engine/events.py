# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the engine's events, which say why a backup failed. The answers to requests do not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pitr.errors import EngineError
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.values import enum_text, utc

#: "A full backup is needed", "the backup failed", "the backup cannot be finalized": problems of any severity.
_PROBLEMS = frozenset({10791, 10792, 10795})
_SEVERE = frozenset({"warning", "error", "alert"})
#: The most events to read, and to quote.
_MOST_READ = 50
_MOST_QUOTED = 3
_LONGEST = 300


def reported_problems(
    engine: Engine, backup_id: str, *, disk_name: str | None = None, since: datetime | None = None
) -> list[str]:
    """Return the texts of the engine's events about problems of a backup, oldest first; empty if it has none.

    Only events from `since` on count, by the engine's clock. Events of a transfer do not name its backup, only its
    disk: if no other event is found, those about the disk `disk_name` count. An engine without events is no error.
    """
    texts = _texts(engine, backup_id, since)
    if not texts and disk_name and since is not None:
        texts = _texts(engine, disk_name, since)
    return texts[:_MOST_QUOTED]


def _texts(engine: Engine, search: str, since: datetime | None) -> list[str]:
    try:
        found = engine.call(
            f"reading the events about {search}",
            lambda system: system.events_service().list(search=search, max=_MOST_READ),
        )
        texts = [_plain(event.description) for event in found if _is_problem(event, since)]
    except EngineError as error:
        engine.log.debug("%s", error)
        return []
    # The engine lists the newest event first.
    return [text for text in dict.fromkeys(reversed(texts)) if text]


def _is_problem(event: Any, since: datetime | None) -> bool:
    if since is not None:
        time = utc(event.time, "the time of an event")
        if time is None or time < since:
            return False
    return event.code in _PROBLEMS or enum_text(event.severity, absent="normal") in _SEVERE


def _plain(text: str | None) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text or "").split())[:_LONGEST].rstrip(".")
