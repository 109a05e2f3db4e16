# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection. It ends when the client has no token, or takes too long.

uvicorn waits without limit for the rest of a request's head, for a body that no code reads, and for a client to read an
answer. The number of connections is limited. Without a time limit, any client could occupy all of them for good,
without the token.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

#: How long a client may take to send the head of a request. Without the token, it must also read its answer in this
#: time. Every network can transfer a few hundred bytes in it.
HEAD_TIMEOUT_S: Final = 30.0
_LET_IN: Final = "pitr.let_in"


def let_in(scope: Scope) -> None:
    """Note that this request has the token. From here on, its stream has its own limits."""
    scope[_LET_IN] = True


class ClientConnection(H11Protocol):
    """uvicorn's protocol, with a limit on how long a client may hold a connection."""

    _watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        # Before the library's handler, which may start the next request.
        self._watch()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        # The library closes the connection here. With TLS, the client then has half a minute to read the rest, which
        # is not enough for a client that writes to a tape.
        if not self._trusted_with_more():
            super().timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self.loop.call_later(HEAD_TIMEOUT_S, self._look)

    def _look(self) -> None:
        if self._trusted_with_more():
            self._watch()
        else:
            # abort, not close: close would wait for the client again.
            self.transport.abort()

    def _trusted_with_more(self) -> bool:
        """Return whether a client with the token is getting an answer, or has not read all of the last one."""
        if self.cycle is None or _LET_IN not in self.cycle.scope:
            return False
        return not self.cycle.response_complete or self.transport.get_write_buffer_size() > 0
