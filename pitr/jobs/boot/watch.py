# SPDX-License-Identifier: GPL-2.0-or-later
"""Watch a guest boot until something proves that it is up, or that it is not.

The proofs, best first: the guest's agent answers; the serial console matches what you expect; the screen has settled
and shows neither a panic nor a prompt for rescue, which leaves pitr unsure.
"""

from __future__ import annotations

import re
import select
import time
from dataclasses import dataclass
from typing import Final

from pitr.errors import PitrError
from pitr.jobs.boot import signs
from pitr.jobs.boot.console import Agent, Console
from pitr.jobs.boot.screen import Screen
from pitr.repository.drilled_boot import Boot, Evidence, Result
from pitr.system.qemu.qmp import QmpClosed
from pitr.system.qemu.running import RunningGuest
from pitr.text import printable

_TICK_S: Final = 0.1
#: A prompt for rescue that stays for so long is no step of a boot.
_RESCUE_S: Final = 10.0
#: What a guest said before it shut down arrives within this time.
_LAST_WORDS_S: Final = 1.0
#: A guest may restart once or twice in a boot, after an update or a check of its disks.
_MOST_RESTARTS: Final = 4

#: States of qemu (run-state.json) in which a guest does not run any more.
_STOPPED_BY_QEMU: Final = frozenset({"internal-error", "io-error", "guest-panicked"})


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
    if guest.serial is None or guest.agent is None:
        raise AssertionError("the guest was started without observers")
    with Console(guest.serial) as console:
        return _Watch(guest, console, Agent(guest.agent), expected).watch()


class _Watch:
    def __init__(self, guest: RunningGuest, console: Console, agent: Agent, expected: Expected) -> None:
        self._guest = guest
        self._expected = expected
        self._console = console
        self._agent = agent
        self._started_at = time.monotonic()
        self._screen = Screen(guest)
        self._restarts = 0
        self._has_shut_down = False
        self._stopped: str | None = None

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
                self._console.wait_for_end()
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
            elif event["event"] == "STOP":
                self._stopped = self._guest.qmp.execute("query-status").get("status")
            elif event["event"] == "BLOCK_IO_ERROR" and data.get("nospace"):
                raise PitrError(
                    "no space is left for what the guest writes", "Name another folder with --in."
                )
        self._agent.ask()
        self._screen.look_if_due()

    def _verdict(self) -> _Verdict | None:
        found = self._matched() or self._failed()
        if found is None and self._screen.still_s() >= _RESCUE_S:
            found = self._lost()
        if found is None and self._expected.pattern is None and self._screen.has_settled():
            found = _Verdict("unsure", "screen", "the screen has settled and shows no failure")
        return found

    def _failed(self) -> _Verdict | None:
        if (line := signs.fatal(self._console.text)) is not None:
            return _Verdict("failed", "console", f"the console says: {line}")
        if (line := signs.fatal(self._screen.text)) is not None:
            return _Verdict("failed", "screen", f"the screen says: {line}")
        if self._has_shut_down and self._console.silent_s() >= _LAST_WORDS_S:
            return _Verdict("failed", "screen", "the guest shut itself down")
        if self._stopped in _STOPPED_BY_QEMU:
            return _Verdict("failed", "screen", f"qemu stopped the guest: {self._stopped}")
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
        if line is None and not self._console.text.strip():
            line = signs.only_bios(self._screen.text)
        return None if line is None else _Verdict("failed", "screen", f"the guest waits at: {line}")

    def _too_late(self) -> _Verdict:
        within = f"within {self._expected.timeout_s:.0f} s"
        if self._expected.pattern is not None:
            return _Verdict("failed", "console", f"the console did not match {within}")
        return self._lost() or _Verdict("unsure", "screen", f"nothing proved the boot {within}")
