# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's clock, which tests can set, freeze and move."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta


class Clock:
    """The clock of all dates in the engine's answers. Several threads can use it.

    It starts as the machine's own time in the local zone. Phases never wait for it: they lag in real time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = timedelta()
        self._frozen: datetime | None = None
        self._zone = datetime.now().astimezone().tzinfo

    def now(self) -> datetime:
        """Return the engine's time, with a time zone."""
        with self._lock:
            return self._now()

    def set(self, moment: str | datetime, *, frozen: bool = False) -> None:
        """Set the clock to `moment`, an ISO 8601 string or a datetime; the default time zone is the clock's.

        The zone of `moment` becomes the clock's. A frozen clock shows exactly this time until resume().
        """
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        with self._lock:
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self._zone)
            self._zone = moment.tzinfo
            self._offset = moment - datetime.now(self._zone)
            self._frozen = moment if frozen else None

    def resume(self) -> None:
        """Let a frozen clock run again from its current time."""
        with self._lock:
            if self._frozen is not None:
                self._offset = self._frozen - datetime.now(self._zone)
                self._frozen = None

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`; a frozen clock stays frozen."""
        step = timedelta(seconds=seconds)
        with self._lock:
            self._offset += step
            if self._frozen is not None:
                self._frozen += step

    def _now(self) -> datetime:
        return self._frozen if self._frozen is not None else datetime.now(self._zone) + self._offset


def in_engine_format(moment: datetime) -> str:
    """`2026-06-01T10:00:00.123+02:00`: the SDK refuses other forms of the offset and of the fraction."""
    return moment.isoformat(timespec="milliseconds")
