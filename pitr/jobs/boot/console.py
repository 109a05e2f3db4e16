# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says on its serial port, and what its agent answers. A hostile guest can say anything."""

from __future__ import annotations

import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import orjson

from pitr.system.closing import Closes

#: Older text is forgotten.
_MOST_TEXT: Final = 1 << 20
_MOST_AGENT: Final = 64 << 10
_MOST_PIECES: Final = 64
_LAST_LINES: Final = 2048
_END_TIMEOUT_S: Final = 5.0
_ASK_PAUSE_S: Final = 2.0
#: Control sequences of terminals (ECMA-48), and other characters that move the cursor.
_CONTROL: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()*+][0-9A-Za-z]|[@-Z\\^_])|[\x00\x07\x08\r]"
)


class Console(Closes):
    """The text on the serial port, read in a thread of its own. It does not own the socket.

    A guest writes byte by byte, and a socket holds only a few hundred of such pieces: firmware gives up a serial port
    that does not take its text at once.
    """

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._raw = bytearray()
        self._is_new = False
        self._text = ""
        self._heard_at = time.monotonic()
        port.setblocking(True)
        self._thread = threading.Thread(target=self._listen, name="console", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := self._port.recv(1 << 16):
                with self._lock:
                    self._raw += data
                    del self._raw[:-_MOST_TEXT]
                    self._is_new = True
                    self._heard_at = time.monotonic()

    def wait_for_end(self) -> None:
        """Wait until all is read that a guest has said that has ended."""
        self._thread.join(_END_TIMEOUT_S)

    @property
    def text(self) -> str:
        """The text without control sequences; lines end with a line feed."""
        with self._lock:
            raw = bytes(self._raw) if self._is_new else None
            self._is_new = False
        if raw is not None:
            self._text = _CONTROL.sub("", raw.decode(errors="replace"))
        return self._text

    def last_lines(self) -> str:
        """Return the end of the text."""
        return self.text[-_LAST_LINES:]

    def silent_s(self) -> float:
        """Return for how long nothing has arrived."""
        with self._lock:
            return time.monotonic() - self._heard_at

    def close(self) -> None:
        """End the thread."""
        with suppress(OSError):
            self._port.shutdown(socket.SHUT_RDWR)
        self._thread.join()


class Agent:
    """The channel of the guest's agent (qemu-guest-agent). It does not own the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._id = secrets.randbits(31)
        self._asked_at = float("-inf")
        self._raw = bytearray()

    def ask(self) -> None:
        """Ask the agent to answer with an id, unless pitr has asked just now; take what has arrived."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_PAUSE_S:
            self._asked_at = now
            request = {"execute": "guest-sync-delimited", "arguments": {"id": self._id}}
            # It fails while nobody has read the earlier requests.
            with suppress(OSError):
                # The first byte ends an incomplete request of somebody else.
                self._channel.send(b"\xff" + orjson.dumps(request) + b"\n")
        for data in _arrived(self._channel):
            self._raw += data
            del self._raw[:-_MOST_AGENT]

    def has_answered(self) -> bool:
        """Return whether an answer with the id has arrived."""
        for line in self._raw.replace(b"\xff", b"\n").split(b"\n"):
            try:
                answer = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(answer, dict) and answer.get("return") == self._id:
                return True
        return False


def _arrived(port: socket.socket) -> Iterator[bytes]:
    """Yield what has arrived; not for ever, because a guest can write faster than pitr reads."""
    with suppress(OSError):
        for _ in range(_MOST_PIECES):
            data = port.recv(1 << 16)
            if not data:
                return
            yield data
