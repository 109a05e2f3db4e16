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
from pitr.system.signals import ENDING


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
    before = {signum: signal.getsignal(signum) for signum in ENDING}
    if before[signal.SIGHUP] is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    if server.signum is not None:
        raise Interrupted(server.signum)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self._ignored = [signum for signum in ENDING if signal.getsignal(signum) is signal.SIG_IGN]
        self.signum: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # uvicorn takes its signals also from a process that was told to ignore them.
        for signum in self._ignored:
            signal.signal(signum, signal.SIG_IGN)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again after the server has stopped.
        self.force_exit = self.should_exit
        self.signum = self.signum or sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)
