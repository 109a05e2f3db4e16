# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to qemu through its monitor protocol, QMP."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import Any, Final

import orjson

from pitr.errors import ProgramFailed
from pitr.system.closing import Closes

_TIMEOUT_S: Final = 60.0
_MAX_LINE: Final = 16 << 20


class QmpClosed(ProgramFailed):
    """Qemu has exited, or closed its monitor."""


class Qmp(Closes):
    """A connection to qemu's monitor. It takes the ownership of `connection`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._number = 0
        self.events: deque[dict[str, Any]] = deque(maxlen=10_000)

    def fileno(self) -> int:
        """Return the file descriptor to wait for events."""
        return self._socket.fileno()

    def start(self) -> None:
        """Wait for the greeting, and leave the negotiation. Raises ProgramFailed."""
        self._next(time.monotonic() + _TIMEOUT_S)
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result; events meanwhile go to `events`. Raises ProgramFailed, QmpClosed."""
        self._number += 1
        request = {"execute": command, "arguments": arguments, "id": self._number}
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.sendall(orjson.dumps(request) + b"\n")
        except OSError as error:
            raise QmpClosed(f"qemu exited: {error.strerror}") from error
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                break
            self._note(answer)
        if "error" in answer:
            raise ProgramFailed(f"qemu refused {command}: {answer['error'].get('desc')}")
        return answer.get("return")

    def receive(self) -> None:
        """Take what has arrived, without waiting; events go to `events`. Raises QmpClosed."""
        self._socket.settimeout(0.0)
        try:
            self._fill()
        except BlockingIOError:
            return
        while b"\n" in self._buffer:
            self._note(self._taken())

    def _note(self, answer: dict[str, Any]) -> None:
        if "event" in answer:
            self.events.append(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProgramFailed(f"qemu's monitor did not answer within {_TIMEOUT_S:.0f} s")
            self._socket.settimeout(left)
            try:
                self._fill()
            except TimeoutError:
                continue
        return self._taken()

    def _fill(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError as error:
            raise QmpClosed(f"qemu exited: {error.strerror}") from error
        if not data:
            raise QmpClosed("qemu exited")
        self._buffer += data
        if len(self._buffer) > _MAX_LINE:
            raise ProgramFailed("qemu's monitor sent a line without an end")

    def _taken(self) -> dict[str, Any]:
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        try:
            answer = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ProgramFailed(f"qemu's monitor sent no JSON: {error}") from None
        if not isinstance(answer, dict):
            raise ProgramFailed("qemu's monitor sent no JSON object")
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
