# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest: qemu, its monitor, its serial port and the channel of its agent.

qemu is killed at the end of the block, whatever ends it, and gets SIGTERM if pitr is killed.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pitr.errors import ProgramFailed
from pitr.system.process import start
from pitr.system.qemu.command import Channels, Machine, qemu_command
from pitr.system.qemu.qmp import Qmp

_STOP_TIMEOUT_S: Final = 5.0
_SAVE_TIMEOUT_S: Final = 60.0
_LOG: Final = "qemu.log"
_SCREEN: Final = "screen.ppm"
#: Twice as much as a picture of 4096 x 4096 pixels.
_MAX_PICTURE: Final = 100 << 20


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A guest that runs. `serial` and `agent` are None if the guest was started without observers."""

    process: subprocess.Popen[bytes]
    qmp: Qmp
    serial: socket.socket | None
    agent: socket.socket | None
    folder: Path

    def reads(self) -> int:
        """Return how often the guest has read from its disks. Raises ProgramFailed."""
        disks = self.qmp.execute("query-blockstats")
        return sum(int(disk["stats"]["rd_operations"]) for disk in disks)

    def log(self) -> str:
        """Return what qemu has complained about."""
        return _said(self.folder)

    def screen(self) -> bytes:
        """Return the picture on the screen as PPM. Raises ProgramFailed."""
        path = self.folder / _SCREEN
        self.qmp.execute("screendump", filename=str(path.absolute()))
        try:
            with path.open("rb") as file:
                picture = file.read(_MAX_PICTURE + 1)
        except OSError as error:
            raise ProgramFailed(f"cannot read the picture of the screen: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)
        if len(picture) > _MAX_PICTURE:
            raise ProgramFailed("the picture of the screen is too large")
        return picture


@contextmanager
def running(program: str, machine: Machine, folder: Path, *, observed: bool) -> Iterator[RunningGuest]:
    """Start the guest, and kill it at the end of the block. `folder` is private; it gets the log of qemu.

    `observed` connects the serial port and the agent's channel. Raises ProgramFailed with qemu's errors.
    """
    with ExitStack() as stack:
        qmp, theirs = _pair(stack)
        pairs = [_pair(stack) for _ in range(2)] if observed else []
        channels = Channels(theirs.fileno(), *(other.fileno() for _, other in pairs))
        log = stack.enter_context((folder / _LOG).open("wb"))
        others = [theirs, *(other for _, other in pairs)]
        command = qemu_command(program, machine, channels)
        process = start(command, log, pass_fds=[each.fileno() for each in others])
        stack.callback(_stop, process, _STOP_TIMEOUT_S if machine.disposable else _SAVE_TIMEOUT_S)
        for each in others:
            each.close()
        monitor = stack.enter_context(Qmp(qmp))
        try:
            monitor.start()
        except ProgramFailed as error:
            raise ProgramFailed(f"qemu cannot start the guest: {_said(folder) or error.message}") from error
        ours = [own for own, _ in pairs]
        for each in ours:
            each.setblocking(False)
        serial, agent = ours or (None, None)
        yield RunningGuest(process, monitor, serial, agent, folder)


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    first, second = socket.socketpair()
    return stack.enter_context(first), stack.enter_context(second)


def _stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    # After SIGTERM, qemu closes the drives first.
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _said(folder: Path) -> str:
    with suppress(OSError):
        return (folder / _LOG).read_text(errors="replace").strip()[-2000:]
    return ""
