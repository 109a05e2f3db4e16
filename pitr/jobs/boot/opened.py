# SPDX-License-Identifier: GPL-2.0-or-later
"""Open a point on this machine for a person: in a window, or without one for a VNC viewer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pitr.errors import ProgramFailed, UsageError
from pitr.jobs.boot.virtual_machine import Screen, Started
from pitr.reporting import Notify
from pitr.system.qemu.program import find_qemu, window
from pitr.system.qemu.qmp import QmpClosed
from pitr.system.signals import Signals

LOOPBACK: Final = "127.0.0.1"
#: VNC displays are counted from this port.
_FIRST_PORT: Final = 5900
_PORTS: Final = 65535 - _FIRST_PORT
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class VncAddress:
    """Where a VNC viewer connects."""

    host: str
    port: int


def screen_for(vnc_port: int | None, *, headless: bool) -> Screen:
    """Return the guest's screen: a window, or a VNC server for viewers on this machine; port 0 is any free one.

    Raises UsageError, ProgramMissing without a desktop.
    """
    if vnc_port is None and not headless:
        return Screen(display=window(find_qemu()))
    if not vnc_port:
        return Screen(vnc=f"{LOOPBACK}:0,to={_PORTS}")
    if vnc_port < _FIRST_PORT:
        raise UsageError(
            f"--vnc {vnc_port}: the ports of VNC begin at {_FIRST_PORT}",
            f"Name a port from {_FIRST_PORT} on, or 0 for any free one.",
        )
    return Screen(vnc=f"{LOOPBACK}:{vnc_port - _FIRST_PORT}")


def vnc_address(machine: Started) -> VncAddress | None:
    """Return where a viewer connects; None for a guest in a window. Raises ProgramFailed."""
    answer: dict[str, Any] = machine.guest.qmp.execute("query-vnc")
    if not answer.get("enabled"):
        return None
    return VncAddress(str(answer["host"]), int(answer["service"]))


def wait_for_end(machine: Started, signals: Signals, notify: Notify) -> None:
    """Wait until the guest has shut down, its window is closed, or a signal comes. Raises ProgramFailed.

    `notify` gets a line if qemu pauses the guest because no space is left for what it writes.
    """
    process, qmp = machine.guest.process, machine.guest.qmp
    while process.poll() is None:
        if signals.wait(_POLL_S) is not None:
            return
        with suppress(QmpClosed):
            qmp.receive()
        while qmp.events:
            event = qmp.events.popleft()
            if event["event"] == "BLOCK_IO_ERROR" and (event.get("data") or {}).get("nospace"):
                notify("the guest is paused: no space is left for what it writes")
    if process.returncode != 0:
        raise ProgramFailed(f"qemu failed: {machine.guest.log() or f'exit code {process.returncode}'}")
