# SPDX-License-Identifier: GPL-2.0-or-later
"""Watch a guest boot until something proves that it is up, or that it is not.

The proofs, best first: the guest's agent answers; the serial console matches what you expect; the screen has settled
and shows neither a panic nor a prompt for rescue, which leaves pitr unsure.
"""

from __future__ import annotations

import os
import re
import select
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pitr.errors import FormatError, ProgramFailed
from pitr.jobs.boot import signs
from pitr.jobs.boot.console import Agent, Console
from pitr.repository.drilled_boot import Boot, Evidence, Result
from pitr.system.qemu import picture
from pitr.system.qemu.picture import Picture
from pitr.system.qemu.qmp import QmpClosed
from pitr.system.qemu.running import RunningGuest
from pitr.system.qemu.screen_text import text_on
from pitr.text import printable

_TICK_S: Final = 0.1
_SCREEN_PAUSE_S: Final = 1.0
#: A screen is settled if it stays the same for so long: while the guest idles, or while its processor is busy.
_SETTLED_S: Final = 30.0
_SETTLED_BUSY_S: Final = 90.0
_BUSY: Final = 0.3
#: A prompt for rescue that stays for so long is no step of a boot.
_RESCUE_S: Final = 10.0
#: A guest may restart once or twice in a boot, after an update or a check of its disks.
_MOST_RESTARTS: Final = 4
#: The largest picture that is stored with a drill: replication copies objects of up to 1 MiB, also sealed ones.
_MAX_SCREENSHOT: Final = 384 << 10


@dataclass(frozen=True, slots=True)
class Expected:
    """What to wait for: a pattern in the serial console (None for any proof), for so many seconds."""

    pattern: re.Pattern[str] | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Verdict:
    result: Result
    evidence: Evidence
    message: str


def watch(guest: RunningGuest, expected: Expected) -> Boot:
    """Watch a guest that has just started, and return the result. The guest still runs afterwards."""
    return _Watch(guest, expected).watch()


class _Watch:
    def __init__(self, guest: RunningGuest, expected: Expected) -> None:
        if guest.serial is None or guest.agent is None:
            raise AssertionError("the guest was started without observers")
        self._guest = guest
        self._expected = expected
        self._console = Console(guest.serial)
        self._agent = Agent(guest.agent)
        self._started_at = time.monotonic()
        self._screen = _Screen(guest, self._started_at)
        self._restarts = 0
        self._has_shut_down = False

    def watch(self) -> Boot:
        deadline = self._started_at + self._expected.timeout_s
        verdict = None
        while verdict is None:
            now = time.monotonic()
            try:
                self._observe(min(_TICK_S, max(0.0, deadline - now)))
                verdict = self._verdict()
            except QmpClosed:
                # What it said last is still there.
                self._console.receive()
                verdict = self._matched() or _Verdict(
                    "failed", "screen", "qemu exited while the guest booted"
                )
            if verdict is None and now >= deadline:
                verdict = self._too_late()
        return Boot(
            verdict.result,
            verdict.evidence,
            round((time.monotonic() - self._started_at) * 1000),
            printable(verdict.message),
            self._screen.screenshot(),
        )

    def _observe(self, wait_s: float) -> None:
        waiting = select.poll()
        waiting.register(self._guest.qmp.fileno(), select.POLLIN)
        waiting.poll(wait_s * 1000)
        self._guest.qmp.receive()
        while self._guest.qmp.events:
            event = self._guest.qmp.events.popleft()
            data = event.get("data") or {}
            if event["event"] == "RESET" and data.get("guest"):
                self._restarts += 1
            elif event["event"] == "SHUTDOWN":
                self._has_shut_down = True
        self._console.receive()
        self._agent.ask()
        self._screen.look_if_due()

    def _verdict(self) -> _Verdict | None:
        found = self._matched() or self._failed()
        if found is None and self._screen.unchanged_s() >= _RESCUE_S:
            found = self._lost()
        if found is None and self._expected.pattern is None and self._screen.has_settled():
            found = _Verdict("unsure", "screen", "the screen has settled and shows no failure")
        return found

    def _failed(self) -> _Verdict | None:
        if (line := signs.fatal(self._console.text)) is not None:
            return _Verdict("failed", "console", f"the console says: {line}")
        if (line := signs.fatal(self._screen.text)) is not None:
            return _Verdict("failed", "screen", f"the screen says: {line}")
        if self._has_shut_down:
            return _Verdict("failed", "screen", "the guest shut itself down")
        if self._restarts >= _MOST_RESTARTS:
            return _Verdict("failed", "screen", f"the guest restarted {self._restarts} times")
        return None

    def _matched(self) -> _Verdict | None:
        pattern = self._expected.pattern
        answered = self._agent.has_answered()
        if pattern is None:
            return _Verdict("passed", "guest-agent", "the guest's agent answers") if answered else None
        match = pattern.search(self._console.text)
        if match is None:
            return None
        return _Verdict(
            "passed", "guest-agent" if answered else "console", f"the console says: {match[0][:200].strip()}"
        )

    def _lost(self) -> _Verdict | None:
        """Return the failure of a guest that waits at a prompt for rescue, or in its boot loader."""
        if self._console.silent_s() >= _RESCUE_S:
            line = signs.rescue(self._console.last_lines())
            if line is not None:
                return _Verdict("failed", "console", f"the guest waits at: {line}")
        line = signs.rescue(self._screen.text)
        return None if line is None else _Verdict("failed", "screen", f"the guest waits at: {line}")

    def _too_late(self) -> _Verdict:
        within = f"within {self._expected.timeout_s:.0f} s"
        if self._expected.pattern is not None:
            return _Verdict("failed", "console", f"the console did not match {within}")
        return self._lost() or _Verdict("unsure", "screen", f"nothing proved the boot {within}")


class _Screen:
    """The guest's screen, looked at once a second."""

    def __init__(self, guest: RunningGuest, now: float) -> None:
        self._guest = guest
        self._picture: Picture | None = None
        self._looked_at = now
        self._changed_at = now
        self._busy_s = 0.0
        self.text = ""

    def look_if_due(self) -> None:
        """Look if the last look is long enough ago. Raises QmpClosed."""
        now = time.monotonic()
        if now - self._looked_at >= _SCREEN_PAUSE_S:
            self._look()
            self._looked_at = time.monotonic()

    def unchanged_s(self) -> float:
        """Return for how long the screen has been the same, apart from a cursor."""
        return time.monotonic() - self._changed_at if self._picture is not None else 0.0

    def has_settled(self) -> bool:
        """Return whether the screen has been the same for long. A busy guest, as under an emulation, gets more time."""
        unchanged_s = self.unchanged_s()
        if unchanged_s < _SETTLED_S:
            return False
        is_busy = _processor_s(self._guest.process.pid) - self._busy_s > _BUSY * unchanged_s
        return unchanged_s >= _SETTLED_BUSY_S or not is_busy

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
            self._busy_s = _processor_s(self._guest.process.pid)
            self.text = text_on(seen)
        self._picture = seen


def _processor_s(pid: int) -> float:
    """Return the processor time that a process has used; 0 if the system does not say it."""
    try:
        # The name of the program, in parentheses, may contain anything.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
