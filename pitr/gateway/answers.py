# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers whose bytes come from, or go to, a blocking thread. They are bounded, and end early when the work fails.

Once its body has begun, an answer cannot become an error: it ends without its last chunk (or before its
Content-Length), which every HTTP client reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from pitr.errors import PitrError
from pitr.gateway.channel import ClientGone, Incoming, Outgoing
from pitr.gateway.failures import document_of, status_of
from pitr.gateway.work import BlockingWork
from pitr.units import human_size

_RETRY_AFTER_S = "10"


class Document:
    """A JSON document."""

    def __init__(self, document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.content = document
        self._body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        self._status = status
        self._headers = {
            "content-type": "application/json",
            "content-length": str(len(self._body)),
            "cache-control": "no-store",
            **(headers or {}),
        }

    def with_header(self, name: str, value: str) -> Document:
        """Return a copy with one more header."""
        return Document(self.content, status=self._status, headers={**self._headers, name: value})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(_start(self._status, self._headers))
        await send({"type": "http.response.body", "body": self._body})


class Empty:
    """An answer with headers only."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(_start(self._status, self._headers))
        await send({"type": "http.response.body", "body": b""})


def failure(error: PitrError) -> Document:
    """Return the answer for a failure."""
    status = status_of(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="pitr"'
    elif status == 503:
        headers["retry-after"] = _RETRY_AFTER_S
    return Document(document_of(error), status=int(status), headers=headers)


class Streaming:
    """A body that `job` writes in a thread. A failure before the first bytes sets the status."""

    def __init__(
        self,
        work: BlockingWork,
        name: str,
        job: Callable[[Callable[[bytes], object]], None],
        headers: Mapping[str, str],
        *,
        status: int = 200,
    ) -> None:
        self._work = work
        self._name = name
        self._job = job
        self._headers = headers
        self._status = status
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._work
        channel = Outgoing(asyncio.get_running_loop())

        def run() -> None:
            try:
                self._job(channel.write)
            except BaseException as error:  # noqa: BLE001 - `read` raises it again
                channel.fail(error)
            else:
                channel.end()

        done = work.start_stream(run, channel.close)
        watching = asyncio.create_task(_when_gone(receive, channel.close))
        began = False
        try:
            piece = await channel.read()
            await send(_start(self._status, self._headers))
            began = True
            while piece is not None:
                await self._send(send, piece)
                piece = await channel.read()
            await send({"type": "http.response.body", "body": b""})
            work.notify(f"{self._name}: {human_size(self._sent)} sent")
        except Exception as error:  # noqa: BLE001 - the client gets it, or the log when it is too late for that
            channel.close()
            problem = work.report(self._name, error)
            if not began and not isinstance(error, ClientGone):
                await failure(problem)(scope, receive, send)
        finally:
            channel.close()
            watching.cancel()
            # Before the request counts as done, close everything that the job has opened.
            await done

    async def _send(self, send: Send, piece: memoryview) -> None:
        try:
            async with asyncio.timeout(self._work.client_timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            raise ClientGone(f"the client has read nothing for {self._work.client_timeout_s:.0f} s") from None
        self._sent += len(piece)


class RequestBody:
    """A document that `job` returns after it has read the body in a thread."""

    def __init__(self, work: BlockingWork, name: str, job: Callable[[Incoming], Any]) -> None:
        self._work = work
        self._name = name
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._work
        channel = Incoming(asyncio.get_running_loop())
        outcome: MutableMapping[str, Any] = {}

        def run() -> None:
            try:
                outcome["document"] = self._job(channel)
            except BaseException as error:  # noqa: BLE001 - the client gets it
                outcome["error"] = error
            finally:
                channel.close()

        done = work.start_stream(run, lambda reason: channel.fail(reason or ClientGone()))
        pumping = asyncio.create_task(self._pump(receive, channel))
        try:
            await asyncio.shield(done)
        finally:
            channel.fail(ClientGone())
            pumping.cancel()
            with suppress(asyncio.CancelledError):
                await pumping
            await done
        if "error" in outcome:
            await failure(work.report(self._name, outcome["error"]))(scope, receive, send)
            return
        work.notify(f"{self._name}: {human_size(channel.received)} received")
        await Document(outcome["document"])(scope, receive, send)

    async def _pump(self, receive: Receive, channel: Incoming) -> None:
        while True:
            try:
                async with asyncio.timeout(self._work.client_timeout_s):
                    message = await receive()
            except TimeoutError:
                channel.fail(
                    ClientGone(f"the client has sent nothing for {self._work.client_timeout_s:.0f} s")
                )
                return
            if message["type"] == "http.disconnect":
                channel.fail(ClientGone())
                return
            await channel.put(message.get("body", b""))
            if not message.get("more_body", False):
                channel.end()
                return


async def _when_gone(receive: Callable[[], Awaitable[Message]], close: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    close()


def _start(status: int, headers: Mapping[str, str]) -> Message:
    return {
        "type": "http.response.start",
        "status": int(status),
        "headers": [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()
        ],
    }
