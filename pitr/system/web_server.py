# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP server that runs until a signal stops it: uvicorn with pitr's start and stop.

pitr adds two things to uvicorn: a call when clients can connect, and the same stop for SIGINT, SIGTERM and SIGHUP.
uvicorn is an optional dependency; a module that imports this one says what to install if it is missing.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from pitr.errors import Interrupted


def serve(
    config: uvicorn.Config,
    listener: socket.socket,
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Serve on `listener` until a signal comes, then finish all requests and raise Interrupted. Main thread only.

    Calls `ready` when clients can connect, and `stopping` before it waits for open requests. A second signal ends
    that wait.
    """
    server = _Server(config, ready, stopping)
    before = signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        signal.signal(signal.SIGHUP, before)
    if server.signum is not None:
        raise Interrupted(server.signum)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self.signum: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again after the server has stopped.
        self.force_exit = self.should_exit
        self.signum = self.signum or sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)
