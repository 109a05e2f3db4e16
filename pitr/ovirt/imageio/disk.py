# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and write oVirt's disks through ovirt-imageio: the data path of backup and restore.

Data goes through the host's unix socket if possible, else through the network to the host, else through the proxy.
Each reader and writer has one connection. Its own thread opens it for the first request and replaces it after a
failure, because half an answer can remain on it. pitr never has more connections than the server offers: it closes
the connection that lists the extents before a reader opens one, and flushes after all writers are closed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, TypeVar

from pitr.copier.requests import CombinedRequest, combine
from pitr.errors import CheckpointGone, FormatError, ImageioError
from pitr.extents import ExtentMap
from pitr.ovirt.imageio.errors import StatusError, is_expected
from pitr.ovirt.imageio.extents import Context, parse_extents
from pitr.ovirt.imageio.session import (
    ANSWER_TIMEOUT_S,
    READ_TIMEOUT_S,
    ImageioAddress,
    ImageioSession,
    LocalSocket,
    Options,
    ask,
    trying,
)
from pitr.system.cancellation import pause
from pitr.system.closing import Closes

_log = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["ImageioAddress", "ImageioReader", "ImageioSink", "ImageioSource", "ImageioWriter"]

#: The longest gap that one request reads across, because another request costs more. On one host a GET of 4 KiB took
#: 0.49 ms over the unix socket and 0.67 ms over TLS; 256 KiB more added 0.17 and 0.37 ms, 1 MiB 0.58 and 1.31 ms.
MAX_GAP: Final = 512 << 10
#: qemu allocates memory for each request, and glibc returns it to the system, page by page, when more than twice the
#: largest request so far is free. After one request of 8 MiB, four of 4 MiB at once stay below this limit: qemu-nbd
#: used 0.9 CPU seconds for 3.4 GB; with only 8 MiB requests (or only 4 MiB ones) it used 2.0.
FIRST_REQUEST: Final = 8 << 20
MAX_REQUEST: Final = 4 << 20
#: Concurrent zero requests of 1 GiB timed out on iSCSI. imageio's own client has the same limit.
MAX_ZERO: Final = 128 << 20


class ImageioSource:
    """A source that downloads a disk of an open transfer.

    The zero context lists the whole disk, the dirty context the ranges written or zeroed since the checkpoint.
    `engine_size` is the engine's size of the disk in bytes: the image on the host can be longer, with an unreadable
    end. It requests the extents once. `sleep` pauses between retries. Raises ImageioError, and CheckpointGone when
    the server has no dirty extents.
    """

    def __init__(
        self,
        transfer: ImageioAddress,
        context: Context = "zero",
        *,
        engine_size: int | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
        sleep: Callable[[float], None] = pause,
    ) -> None:
        self._transfer = transfer
        self._context: Context = context
        self._engine_size = engine_size
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._way = _Way(transfer)
        self._known: tuple[Options, int, ExtentMap] | None = None

    @property
    def size(self) -> int:
        """The size of the disk in bytes: the end of its last readable extent. The engine can report less."""
        return self._described()[1]

    @property
    def max_readers(self) -> int:
        return self._described()[0].max_readers

    def extents(self) -> ExtentMap:
        return self._described()[2]

    def open_reader(self) -> ImageioReader:
        return ImageioReader(self._transfer, self._sleep, self._way)

    def _described(self) -> tuple[Options, int, ExtentMap]:
        if self._known is None:
            what = f"list the {self._context} extents"
            options, body = ask(
                self._transfer, what, self._listed, timeout_s=self._timeout_s, sleep=self._sleep
            )
            try:
                size, extents = parse_extents(body, self._context)
            except FormatError as error:
                message = f"ovirt-imageio at {self._transfer.host} sent invalid extents: {error.message}"
                raise ImageioError(message) from error
            if self._engine_size is not None and size > self._engine_size:
                # The host rounds the image's size up, but the ticket only allows the engine's size.
                readable = ask(
                    self._transfer,
                    "report the size of the disk",
                    ImageioSession.readable_size,
                    sleep=self._sleep,
                )
                size, extents = min(size, readable), extents.clipped(readable)
            self._known = (options, size, extents)
        return self._known

    def _listed(self, session: ImageioSession) -> tuple[Options, bytes]:
        options = self._way.learn(session)
        try:
            return options, session.extents(self._context)
        except StatusError as error:
            if self._context == "dirty" and error.code == HTTPStatus.NOT_FOUND:
                raise CheckpointGone(
                    f"ovirt-imageio at {self._transfer.host} has no list of changes since the checkpoint",
                    "Take a full backup.",
                ) from None
            raise


class ImageioSink:
    """A sink that uploads a disk of an open transfer.

    `reads_zero` says whether the disk reads as zeroes now, as a new disk does. Data is durable only after `flush`. The
    caller finalizes or cancels the transfer, so `abort` does nothing. Raises ImageioError.
    """

    def __init__(
        self,
        transfer: ImageioAddress,
        *,
        reads_zero: bool,
        timeout_s: float = ANSWER_TIMEOUT_S,
        sleep: Callable[[float], None] = pause,
    ) -> None:
        self._transfer = transfer
        self._reads_zero = reads_zero
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._way = _Way(transfer)
        self._options: Options | None = None

    @property
    def max_writers(self) -> int:
        if self._options is None:
            self._options = ask(self._transfer, "report its options", self._way.learn, sleep=self._sleep)
        return self._options.max_writers

    @property
    def reads_zero(self) -> bool:
        return self._reads_zero

    def open_writer(self) -> ImageioWriter:
        return ImageioWriter(self._transfer, self._timeout_s, self._sleep, self._way)

    def flush(self) -> None:
        ask(
            self._transfer,
            "flush the disk",
            ImageioSession.flush,
            timeout_s=self._timeout_s,
            sleep=self._sleep,
        )

    def abort(self) -> None:
        pass


class _Way:
    """How the connections of one source or sink reach the server. The first one learns it for all others.

    Without it, each connection to a server on this machine would begin with TLS and open the disk twice.
    """

    def __init__(self, transfer: ImageioAddress) -> None:
        self._transfer = transfer
        self._local: LocalSocket | None = None
        self._known = False

    def learn(self, session: ImageioSession) -> Options:
        """Ask for the server's options and remember its unix socket. Return the options."""
        options = session.options()
        self._local = session.local_socket(options)
        self._known = True
        if self._local is not None:
            _log.debug(
                "this machine is the disk's host: data goes through the unix socket %s", self._local.name
            )
        return options

    def open(self) -> ImageioSession:
        """Open a session for data: through the unix socket if this machine is the host."""
        if not self._known:
            with ImageioSession(self._transfer, READ_TIMEOUT_S) as session:
                self.learn(session)
        if self._local is not None:
            # A container has the host's IP address, but another file system.
            with contextlib.suppress(OSError):
                return ImageioSession(self._local, READ_TIMEOUT_S)
        return ImageioSession(self._transfer, READ_TIMEOUT_S)


class _OwnConnection(Closes):
    """The connection of a reader or writer. It opens for the first request and closes after a failure."""

    def __init__(self, transfer: ImageioAddress, sleep: Callable[[float], None], way: _Way) -> None:
        self._transfer = transfer
        self._way = way
        self._sleep = sleep
        self._session: ImageioSession | None = None
        self._failed = False

    def trying(self, what: str, operation: Callable[[ImageioSession], T]) -> T:
        def attempt() -> T:
            try:
                return operation(self._opened())
            except BaseException:
                self.drop()
                raise

        return trying(self._transfer, what, attempt, sleep=self._sleep)

    def drop(self) -> None:
        """Close the connection after a failure or Ctrl-C, because half an answer can remain on it."""
        self._failed = True
        self.close()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _opened(self) -> ImageioSession:
        if self._session is None:
            self._session = self._way.open()
            if self._failed:
                # A proxy may not support requests sent before it has answered the last one.
                self._session.requests_ahead = 1
        return self._session


class ImageioReader(Closes):
    """A reader of an ImageioSource, with one connection."""

    def __init__(self, transfer: ImageioAddress, sleep: Callable[[float], None], way: _Way) -> None:
        self._link = _OwnConnection(transfer, sleep, way)
        self._limit = FIRST_REQUEST

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        waiting = list(combine(ranges, gap=MAX_GAP, limit=self._limit))
        self._limit = MAX_REQUEST
        while waiting:

            def read(
                session: ImageioSession, requests: list[CombinedRequest] = waiting, to: memoryview = buffer
            ) -> int:
                return _read_until_failure(session, requests, to)

            what = f"read {waiting[0].length} bytes at {waiting[0].start}"
            count = self._link.trying(what, read)
            if count < len(waiting):
                self._link.drop()
            complete, waiting = waiting[:count], waiting[count:]
            buffer = buffer[sum(request.wanted for request in complete) :]

    def close(self) -> None:
        self._link.close()


def _read_until_failure(
    session: ImageioSession, requests: Sequence[CombinedRequest], target: memoryview
) -> int:
    """Read until a request fails and return the number of complete requests, which need no retry.

    Raises the failure if it is the first request's, because the retries are counted for each request.
    """
    complete = 0
    try:
        for _ in session.read(requests, target):
            complete += 1
    except Exception as error:
        if complete == 0 or not is_expected(error):
            raise
    return complete


class ImageioWriter(Closes):
    """A writer of an ImageioSink, with one connection."""

    def __init__(
        self, transfer: ImageioAddress, timeout_s: float, sleep: Callable[[float], None], way: _Way
    ) -> None:
        self._transfer = transfer
        self._link = _OwnConnection(transfer, sleep, way)
        self._timeout_s = timeout_s
        self._limit = FIRST_REQUEST
        self._slow_zero = False

    def write(self, offset: int, data: memoryview) -> None:
        limit, self._limit = self._limit, MAX_REQUEST
        for at in range(0, len(data), limit):
            piece = data[at : at + limit]

            def put(session: ImageioSession, start: int = offset + at, piece: memoryview = piece) -> None:
                session.write(start, piece)

            self._link.trying(f"write {len(piece)} bytes at {offset + at}", put)

    def zero(self, offset: int, length: int) -> None:
        for start in range(offset, offset + length, MAX_ZERO):
            count = min(MAX_ZERO, offset + length - start)

            def zero(session: ImageioSession, start: int = start, count: int = count) -> None:
                self._zero(session, start, count)

            self._link.trying(f"zero {count} bytes at {start}", zero)

    def close(self) -> None:
        self._link.close()

    def _zero(self, session: ImageioSession, offset: int, length: int) -> None:
        if not self._slow_zero:
            try:
                session.zero(offset, length)
            except TimeoutError:
                # This storage writes zeroes physically: from now on wait longer than for data.
                self._slow_zero = True
                raise
            return
        self._link.close()
        with ImageioSession(self._transfer, self._timeout_s) as patient:
            patient.zero(offset, length)
