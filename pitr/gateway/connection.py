# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection, which ends when nobody with the token uses it.

uvicorn waits as long as a client likes for the rest of a request's head, for a body that nobody reads, and for a
client to take an answer. Connections are bounded in number: without a limit in time anybody could take all of them
for good, without the token.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

#: How long a client may take to send the head of a request, and whoever has no token to take its answer as well.
#: Nobody's network takes so long for a few hundred bytes.
HEAD_TIMEOUT_S: Final = 30.0
_LET_IN: Final = "pitr.let_in"


def let_in(scope: Scope) -> None:
    """Note that this request came with the token: from here on its stream has limits of its own."""
    scope[_LET_IN] = True


class ClientConnection(H11Protocol):
    """uvicorn's own protocol, with an eye on who takes up a connection."""

    _watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        # Before the library's, which begins the next request where it has come already.
        self._watch()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        # It closes the connection. With TLS that gives the client half a minute to take what is still on the way:
        # not enough for one that writes to a tape.
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
            # Not closed: that would wait for the client once more.
            self.transport.abort()

    def _trusted_with_more(self) -> bool:
        """Whether somebody with the token is given an answer, or has not taken all of the last one."""
        if self.cycle is None or _LET_IN not in self.cycle.scope:
            return False
        return not self.cycle.response_complete or self.transport.get_write_buffer_size() > 0
