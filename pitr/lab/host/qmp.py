# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP monitor for code that does not use asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from qemu.qmp import QMPClient, QMPError

from pitr.errors import LabError

_Result = TypeVar("_Result")


class Monitor:
    """A connection to a qemu program's monitor. Several threads can use it; the caller closes it.

    Takes over `channel`, one end of a connected socket. Raises LabError when qemu refuses or is gone.
    """

    def __init__(self, channel: socket.socket, timeout_s: float = 60) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-qmp", daemon=True)
        self._thread.start()
        self._client = QMPClient("lab")
        try:
            self._run(self._client.connect(channel))
        except (QMPError, EOFError, OSError, TimeoutError) as error:
            channel.close()
            self._end_loop()
            raise LabError(f"qemu's monitor did not answer: {error}") from error

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run a QMP command and return its result, as JSON values."""
        if self._loop.is_closed():
            raise LabError(f"qemu cannot {command}: its monitor is closed")
        try:
            return self._run(self._client.execute(command, dict(arguments or {})))
        except TimeoutError as error:
            raise LabError(f"qemu did not answer {command} within {self._timeout_s:.0f} s") from error
        except (QMPError, EOFError, OSError) as error:
            raise LabError(f"qemu refused {command}: {error}") from error

    def close(self) -> None:
        # If qemu died, its connection is closed already.
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            self._run(self._client.disconnect())
        self._end_loop()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, self._timeout_s), self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
