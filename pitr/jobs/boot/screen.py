# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of a guest that boots: its text, and whether anything moves."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pitr.errors import FormatError, ProgramFailed
from pitr.system.qemu import picture
from pitr.system.qemu.picture import Picture
from pitr.system.qemu.qmp import QmpClosed
from pitr.system.qemu.running import RunningGuest
from pitr.system.qemu.screen_text import text_on

_PAUSE_S: Final = 1.0
#: A screen has settled if it stays the same for so long while the guest idles.
_SETTLED_S: Final = 30.0
#: The share of a processor that an idle guest does not need, even if qemu emulates it.
_BUSY: Final = 0.3
#: The largest picture that is stored with a drill: replication copies objects of up to 1 MiB, also sealed ones.
_MAX_SCREENSHOT: Final = 384 << 10


class Screen:
    """The guest's screen, looked at once a second."""

    def __init__(self, guest: RunningGuest) -> None:
        self._guest = guest
        self._picture: Picture | None = None
        self._looked_at = self._changed_at = self._read_at = time.monotonic()
        self._reads = 0
        self._busy_s = 0.0
        self.text = ""

    def look_if_due(self) -> None:
        """Look if the last look is long enough ago. Raises QmpClosed."""
        if time.monotonic() - self._looked_at >= _PAUSE_S:
            self._look()
            reads = self._guest.reads()
            if reads != self._reads:
                self._reads = reads
                self._read_at = time.monotonic()
            self._looked_at = time.monotonic()

    def still_s(self) -> float:
        """Return for how long the screen has been the same, apart from a cursor, and the guest has read nothing."""
        if self._picture is None:
            return 0.0
        return time.monotonic() - max(self._changed_at, self._read_at)

    def has_settled(self) -> bool:
        """Return whether the screen has been the same for long, and the guest idles: it waits for somebody."""
        unchanged_s = time.monotonic() - self._changed_at
        if self._picture is None or unchanged_s < _SETTLED_S:
            return False
        return _busy_s(self._guest.process.pid) - self._busy_s <= _BUSY * unchanged_s

    def screenshot(self) -> bytes | None:
        """Return the picture on the screen as PNG, or the last one that qemu gave."""
        with suppress(ProgramFailed):
            self._look()
        return self._picture.png(limit=_MAX_SCREENSHOT) if self._picture is not None else None

    def _look(self) -> None:
        try:
            seen = picture.from_ppm(self._guest.screen())
        except QmpClosed:
            raise
        except (FormatError, ProgramFailed):
            # No picture, as while the guest changes the resolution, is no failure of the guest.
            return
        if self._picture is None or not seen.is_like(self._picture):
            self._changed_at = time.monotonic()
            self._busy_s = _busy_s(self._guest.process.pid)
            self.text = text_on(seen)
        self._picture = seen


def _busy_s(pid: int) -> float:
    """Return for how long the threads of a process have used a processor, or waited for one that others used.

    0 if the system does not say it.
    """
    try:
        # Time on the processor and time in its queue, in nanoseconds (sched-stats).
        each = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        if each:
            return sum(int(values[0]) + int(values[1]) for values in each) / 1e9
        # The name of the program, in parentheses, may contain anything.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
