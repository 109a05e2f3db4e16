# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP server that runs until a signal ends it: uvicorn, with pitr's way to begin and to end.

uvicorn is small and well kept. Two things are ours: to tell when clients can connect, and the end, which is the same
for all signals that end pitr. It belongs to extras: who imports this says what to install where it is missing.
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
    """Serve on `listener` until a signal comes; then end all requests, and raise Interrupted. In the main thread.

    `ready` is called when clients can connect, `stopping` before requests that are under way are waited for. A second
    signal does not wait for them.
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
        # Not the library's: it would have the signal come once more, when it is not expected any more.
        self.force_exit = self.should_exit
        self.signum = self.signum or sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)
