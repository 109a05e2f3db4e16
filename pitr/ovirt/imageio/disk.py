# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of oVirt through ovirt-imageio: the data path of backup and restore.

Data goes over the host's unix socket where that can be, else to the host, else to the proxy. Each reader and
writer has one connection, opened in its own thread when it is needed first and replaced after a failure: half of
an answer may be left on it, and a client of the library that failed is dead. At no time are there more
connections than the server offers: the one that asks for the extents is closed before a reader opens, the one
that flushes opens after all writers are closed.
"""

from __future__ import annotations

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
    Options,
    ask,
    trying,
)
from pitr.system.cancellation import pause
from pitr.system.closing import Closes

T = TypeVar("T")

__all__ = ["ImageioAddress", "ImageioReader", "ImageioSink", "ImageioSource", "ImageioWriter"]

#: Reading across a gap costs less than another request: on one host a GET of 4 KiB took 0.49 ms over the unix
#: socket and 0.67 ms over TLS; 256 KiB more added 0.17 and 0.37 ms, 1 MiB more 0.58 and 1.31 ms.
MAX_GAP: Final = 512 << 10
#: qemu takes memory for each request, and glibc gives it back to the system, page by page, when more than twice the
#: largest request so far is free. After one of 8 MiB, four of 4 MiB at once stay below that: qemu-nbd took 0.9 CPU
#: seconds for 3.4 GB, with 8 MiB always (or 4 MiB always) 2.0.
FIRST_REQUEST: Final = 8 << 20
MAX_REQUEST: Final = 4 << 20
#: Concurrent zeroes of 1 GiB have timed out on iSCSI; the limit of imageio's own client is this one too.
MAX_ZERO: Final = 128 << 20


class ImageioSource:
    """A source that downloads a disk of an open transfer.

    In the zero context all of the disk is to be copied, in the dirty one what was written or zeroed since the
    checkpoint. `engine_size` is what the engine calls the disk's size: the image on the host may be longer, and its
    end out of reach. The extents are asked for once. `sleep` pauses between tries. Raises ImageioError, and
    CheckpointGone when the server has no dirty extents.
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
        self._known: tuple[Options, int, ExtentMap] | None = None

    @property
    def size(self) -> int:
        """Size of the disk: the end of its last extent that can be read. What the engine reports may be smaller."""
        return self._described()[1]

    @property
    def max_readers(self) -> int:
        return self._described()[0].max_readers

    def extents(self) -> ExtentMap:
        return self._described()[2]

    def open_reader(self) -> ImageioReader:
        return ImageioReader(self._transfer, self._sleep)

    def _described(self) -> tuple[Options, int, ExtentMap]:
        if self._known is None:
            what = f"list the {self._context} extents"
            options, body = ask(
                self._transfer, what, self._listed, timeout_s=self._timeout_s, sleep=self._sleep
            )
            try:
                size, extents = parse_extents(body, self._context)
            except FormatError as error:
                message = f"ovirt-imageio at {self._transfer.host} sent wrong extents: {error.message}"
                raise ImageioError(message) from error
            if self._engine_size is not None and size > self._engine_size:
                # The engine gives a ticket for the size that it knows; the host rounded the image's up.
                readable = ask(
                    self._transfer,
                    "tell the size of the disk",
                    ImageioSession.readable_size,
                    sleep=self._sleep,
                )
                size, extents = min(size, readable), extents.clipped(readable)
            self._known = (options, size, extents)
        return self._known

    def _listed(self, session: ImageioSession) -> tuple[Options, bytes]:
        options = session.options()
        try:
            return options, session.extents(self._context)
        except StatusError as error:
            if self._context == "dirty" and error.code == HTTPStatus.NOT_FOUND:
                raise CheckpointGone(
                    f"ovirt-imageio at {self._transfer.host} cannot tell what changed since the checkpoint",
                    "Take a full backup.",
                ) from None
            raise


class ImageioSink:
    """A sink that uploads a disk of an open transfer.

    `reads_zero` is what the caller knows of the disk: a new one does. Nothing is durable before `flush`.
    Whoever opened the transfer finalizes or cancels it: `abort` does nothing. Raises ImageioError.
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
        self._options: Options | None = None

    @property
    def max_writers(self) -> int:
        if self._options is None:
            self._options = ask(self._transfer, "tell its options", ImageioSession.options, sleep=self._sleep)
        return self._options.max_writers

    @property
    def reads_zero(self) -> bool:
        return self._reads_zero

    def open_writer(self) -> ImageioWriter:
        return ImageioWriter(self._transfer, self._timeout_s, self._sleep)

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


class _OwnConnection(Closes):
    """The one connection of a reader or writer: opened when needed, dropped when anything fails."""

    def __init__(self, transfer: ImageioAddress, sleep: Callable[[float], None]) -> None:
        self._transfer = transfer
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
        """Give the connection up after a failure: half of an answer may be left on it, after Ctrl-C too."""
        self._failed = True
        self.close()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _opened(self) -> ImageioSession:
        if self._session is None:
            session = ImageioSession(self._transfer, READ_TIMEOUT_S)
            try:
                session.go_local()
            except BaseException:
                session.close()
                raise
            if self._failed:
                # Something on the way may not bear requests that come before it has answered.
                session.requests_ahead = 1
            self._session = session
        return self._session


class ImageioReader(Closes):
    def __init__(self, transfer: ImageioAddress, sleep: Callable[[float], None]) -> None:
        self._link = _OwnConnection(transfer, sleep)
        self._limit = FIRST_REQUEST

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        waiting = list(combine(ranges, gap=MAX_GAP, limit=self._limit))
        self._limit = MAX_REQUEST
        while waiting:

            def read(
                session: ImageioSession, combine: list[CombinedRequest] = waiting, to: memoryview = buffer
            ) -> int:
                return _read_what_comes(session, combine, to)

            what = f"read {waiting[0].length} bytes at {waiting[0].start}"
            count = self._link.trying(what, read)
            if count < len(waiting):
                self._link.drop()
            come, waiting = waiting[:count], waiting[count:]
            buffer = buffer[sum(span.wanted for span in come) :]

    def close(self) -> None:
        self._link.close()


def _read_what_comes(session: ImageioSession, combine: Sequence[CombinedRequest], target: memoryview) -> int:
    """Read until a request fails, and return how many did not: what has come need not come again.

    Raises the failure of the first one: the tries are those of one request.
    """
    come = 0
    try:
        for _ in session.read(combine, target):
            come += 1
    except Exception as error:
        if come == 0 or not is_expected(error):
            raise
    return come


class ImageioWriter(Closes):
    def __init__(self, transfer: ImageioAddress, timeout_s: float, sleep: Callable[[float], None]) -> None:
        self._transfer = transfer
        self._link = _OwnConnection(transfer, sleep)
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
                # This storage writes its zeroes: from now on wait longer than for data.
                self._slow_zero = True
                raise
            return
        self._link.close()
        with ImageioSession(self._transfer, self._timeout_s) as patient:
            patient.zero(offset, length)
