# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in a bucket of an object store (S3), or in memory, through obstore.

Objects are created once and never overwritten: small ones with one conditional request, large ones as a multipart
upload under a name that is free. obstore gives requests their time limits, and repeats those that it may repeat. Every
wait ends with a signal.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError
from obstore.store import ObjectStore as Objects

from pitr.errors import RepositoryError
from pitr.repository.store import object_errors
from pitr.repository.store.base import ListedObject, ObjectExists, ObjectMissing, check_name, is_name
from pitr.repository.store.each_at_once import EachAtOnce
from pitr.repository.store.local_copies import LocalCopies
from pitr.repository.store.remote_file import RemoteFile
from pitr.repository.store.requests import Requests
from pitr.repository.store.scratch import Scratch
from pitr.system.cancellation import pause

T = TypeVar("T")

#: A larger object is uploaded in parts. S3 takes parts of at least 5 MiB, and at most 10,000 of them.
_PART = 8 << 20
_MAX_PARTS = 9_000
#: How many bytes of one object are in flight, if its parts are not larger.
_IN_FLIGHT = 32 << 20
#: How many bytes are given to the upload at once.
_PIECE = 1 << 20
#: A conditional request that got no clear answer is repeated for so long.
REPEAT_S = 60.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
#: How long the removal of the parts of a dropped upload may take.
_DROP_S = 3.0
_DROPPED = b"dropped"


class ObjectStore:
    """A store of `objects`; `once` is the same without repeated requests. The caller closes the store.

    `state` is a local folder for scratch files and copies of indexes. `repeat_s`: for how long an unclear conditional
    request is repeated.
    """

    #: How many reads of small objects should be under way at once.
    reads_at_once = 8

    def __init__(self, objects: Objects, once: Objects, state: Path, *, repeat_s: float = REPEAT_S) -> None:
        self._objects = objects
        self._once = once
        self._requests = Requests()
        self._scratch = Scratch(state / "tmp")
        self._copies = LocalCopies(state / "copies")
        self._repeat_s = repeat_s

    def keep_state_in(self, state: Path) -> None:
        self._scratch.close()
        self._scratch = Scratch(state / "tmp")
        self._copies = LocalCopies(state / "copies")

    def close(self) -> None:
        self._requests.close()
        self._scratch.close()
        self._copies.trim()

    def new(self, name: str, *, expected: int = 0) -> _NewUpload:
        """Begin a new object. `expected`: its size, if it is known that it is not larger."""
        return _NewUpload(self, check_name(name), expected)

    def replacing(self, name: str) -> _NewUpload:
        return _NewUpload(self, check_name(name), 0, replaces=True)

    def batch(self) -> EachAtOnce:
        return EachAtOnce(self)

    def overwrite(self, name: str, data: bytes) -> None:
        """Write a small object, whether one with this name exists or not."""
        with _errors("write", name):
            self._run(lambda: obstore.put_async(self._objects, name, data, use_multipart=False))

    def create(self, name: str, data: bytes) -> None:
        self.put_once(name, data)
        self.stored(name)

    def stored(self, name: str) -> None:
        """Do what is due after an upload."""

    def put_once(self, name: str, data: bytes) -> None:
        """Create the object with one conditional request. Raises ObjectExists.

        A request that is repeated after an unclear answer can meet its own earlier effect: then the bytes are equal.
        """
        check_name(name)
        end = time.monotonic() + self._repeat_s
        seconds, unclear = _FIRST_PAUSE_S, False
        while True:
            try:
                self._run(
                    lambda: obstore.put_async(self._once, name, data, mode="create", use_multipart=False)
                )
                return
            except AlreadyExistsError:
                if unclear and self._holds(name, data):
                    return
                raise ObjectExists(name) from None
            except (BaseError, FileNotFoundError) as error:
                if object_errors.parse(error).is_definite or time.monotonic() + seconds > end:
                    raise object_errors.failure(f"cannot write {name}", error) from error
                unclear = True
            # Many writers that were told to slow down must not come back at the same moment.
            pause(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            seconds = min(2 * seconds, _LONGEST_PAUSE_S)

    def open(self, name: str) -> RemoteFile:
        return RemoteFile(self.read_range, name, self.size(name))

    def open_with_head(self, name: str, length: int) -> RemoteFile:
        check_name(name)

        async def get() -> tuple[int, bytes]:
            answer = await obstore.get_async(self._objects, name, options={"range": (0, length)})
            return int(answer.meta["size"]), bytes(await answer.bytes_async())

        try:
            size, head = self._run(get)
        except (BaseError, FileNotFoundError):
            # It is missing, empty or cold. To open it says that, and costs less than to find out here.
            return self.open(name)
        return RemoteFile(self.read_range, name, size, head)

    def read(self, name: str, *, limit: int) -> bytes:
        return self.read_with_version(name, limit=limit)[0]

    def read_with_version(
        self, name: str, version: str | None = None, *, limit: int
    ) -> tuple[bytes, str | None]:
        """Read an object (this version of it), and return its version, too; None in a bucket without versions."""
        check_name(name)
        options: Any = {"version": version} if version is not None else None

        async def get() -> tuple[bytes, str | None]:
            answer = await obstore.get_async(self._objects, name, options=options)
            size = int(answer.meta["size"])
            if size > limit:
                raise RepositoryError(f"{name} has {size} bytes; pitr accepts at most {limit} bytes")
            return bytes(await answer.bytes_async()), answer.meta["version"]

        with _errors("read", name):
            return self._run(get)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Read `length` bytes of an object at `offset`; the object has them."""
        with _errors("read", name):
            return bytes(
                self._run(lambda: obstore.get_range_async(self._objects, name, start=offset, length=length))
            )

    def size(self, name: str) -> int:
        return int(self._meta(name)["size"])

    def holds(self, name: str) -> bool:
        """Return whether there is an object with this name."""
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def is_unused(self) -> bool:
        """Return whether nothing at all lies below the prefix."""
        with _errors("list", "the prefix"):
            found = self._run(lambda: obstore.list_with_delimiter_async(self._objects))
        return not found["objects"] and not found["common_prefixes"]

    def written(self, name: str) -> datetime:
        moment: datetime = self._meta(name)["last_modified"]
        return moment.astimezone(UTC)

    def _meta(self, name: str) -> Any:
        check_name(name)
        with _errors("read", name):
            return self._run(lambda: obstore.head_async(self._objects, name))

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        for each in self.listed(prefix):
            if each.name not in besides:
                yield each.name

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        check_name(prefix)
        stream: Any = obstore.list(self._objects, prefix=prefix)

        async def following() -> Any:
            return await anext(stream, None)

        while True:
            with _errors("list", prefix):
                chunk = self._run(following)
            if chunk is None:
                return
            for each in chunk:
                if is_name(each["path"]):
                    yield ListedObject(each["path"], int(each["size"]), each["last_modified"].astimezone(UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        with _errors("list", prefix):
            found = self._run(lambda: obstore.list_with_delimiter_async(self._objects, prefix=prefix))
        for name in found["common_prefixes"]:
            if is_name(name):
                yield name.rpartition("/")[2]

    def counts(self, prefix: str) -> dict[str, int]:
        return Counter(name.removeprefix(f"{prefix}/").partition("/")[0] for name in self.list(prefix))

    def delete(self, name: str) -> None:
        check_name(name)
        with suppress(ObjectMissing), _errors("delete", name):
            self._run(lambda: obstore.delete_async(self._objects, name))

    def local_file(self, name: str) -> Path:
        check_name(name)

        async def get() -> tuple[str, bytes] | None:
            known = self._copies.tag_of(name)
            try:
                answer = await obstore.get_async(
                    self._objects, name, options={"if_none_match": known} if known else None
                )
            except NotModifiedError:
                return None
            return answer.meta["e_tag"] or "", bytes(await answer.bytes_async())

        with _errors("read", name):
            found = self._run(get)
        return self._copies.path(name) if found is None else self._copies.keep(name, *found)

    def known_copy(self, name: str) -> Path | None:
        return self._copies.known(check_name(name))

    def keep_copy(self, name: str, path: Path) -> None:
        with suppress(RepositoryError, OSError):
            self._copies.keep(check_name(name), "", path.read_bytes())

    def scratch_file(self) -> Path:
        try:
            return self._scratch.file()
        except OSError as error:
            raise RepositoryError(f"cannot write temporary files: {error.strerror}") from error

    def drop_scratch(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.size(name) == len(data) and self.read(name, limit=len(data)) == data
        except ObjectMissing:
            return False

    def _run(self, request: Callable[[], Awaitable[T]]) -> T:
        return self._requests.run(_made(request))

    def begin_upload(
        self, name: str, pieces: AsyncIterator[bytes], part: int
    ) -> concurrent.futures.Future[Any]:
        """Begin to upload `pieces` in parts of `part` bytes; cancelling the result drops the upload."""
        return self._requests.start(
            _made(
                lambda: obstore.put_async(
                    self._objects,
                    name,
                    pieces,
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=max(1, _IN_FLIGHT // part),
                )
            )
        )

    def give(
        self,
        queue: asyncio.Queue[bytes | None],
        piece: bytes | None,
        upload: concurrent.futures.Future[Any],
    ) -> None:
        """Put a piece into the queue of an upload when there is room, or until the upload ends."""

        async def put() -> None:
            putting = asyncio.ensure_future(queue.put(piece))
            ended = _quiet(upload)
            await asyncio.wait({putting, ended}, return_when=asyncio.FIRST_COMPLETED)
            # The caller asks the upload how it ended.
            putting.cancel()

        self._run(put)

    def drop(self, queue: asyncio.Queue[bytes | None], upload: concurrent.futures.Future[Any]) -> None:
        """End an upload without an object. obstore removes its parts when the pieces end with an error."""

        async def end() -> None:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(_DROPPED)
            await asyncio.wait({_quiet(upload)}, timeout=_DROP_S)
            upload.cancel()

        with suppress(TimeoutError):
            self._requests.start(end()).result(_DROP_S)


def _quiet(upload: concurrent.futures.Future[Any]) -> asyncio.Future[Any]:
    """Return a future of the loop that ends with `upload`. Its error is reported elsewhere."""
    future = asyncio.wrap_future(upload)
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


async def _made(request: Callable[[], Awaitable[T]]) -> T:
    # obstore's requests must be made in the event loop.
    return await request()


@contextmanager
def _errors(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if object_errors.parse(error).code == "NoSuchBucket":
            raise object_errors.failure(f"cannot {what} {name}", error) from error
        raise ObjectMissing(name) from None
    except BaseError as error:
        raise object_errors.failure(f"cannot {what} {name}", error) from error


def reading(name: str) -> AbstractContextManager[None]:
    """Raise the errors of the block as those of reading an object."""
    return _errors("read", name)


class _Dropped(Exception):
    """The writer of an upload gave it up."""


class _NewUpload:
    """An object while it is written: in memory while it is small, then a multipart upload."""

    def __init__(self, store: ObjectStore, name: str, expected: int, *, replaces: bool = False) -> None:
        self._store = store
        self._name = name
        self._replaces = replaces
        # Parts grow with the object, because their number is limited.
        self._part = max(_PART, -(-expected // _MAX_PARTS))
        self._pieces: list[bytes] = []
        self._size = 0
        self._queue: asyncio.Queue[bytes | None] | None = None
        self._upload: concurrent.futures.Future[Any] | None = None

    def write(self, data: bytes | memoryview) -> None:
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._upload is None and self._size > self._part:
            self._begin()
        if self._upload is not None and self._size >= _PIECE:
            self._flush()

    def commit(self) -> None:
        if self._upload is None:
            put = self._store.overwrite if self._replaces else self._store.create
            put(self._name, b"".join(self._pieces))
            self._pieces = []
            return
        self._flush()
        self._give(None)
        try:
            with _errors("write", self._name):
                Requests.wait(self._upload)
        finally:
            self._end()
        self._store.stored(self._name)

    def _begin(self) -> None:
        if not self._replaces and self._store.holds(self._name):
            raise ObjectExists(self._name)
        # Names of large objects are random, so that a check suffices: stores ignore conditions for uploads in parts.
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=4)

        async def pieces() -> AsyncIterator[bytes]:
            while (piece := await queue.get()) is not None:
                if piece is _DROPPED:
                    raise _Dropped
                yield piece

        self._queue = queue
        self._upload = self._store.begin_upload(self._name, pieces(), self._part)

    def _flush(self) -> None:
        self._give(b"".join(self._pieces))
        self._pieces = []
        self._size = 0

    def _give(self, piece: bytes | None) -> None:
        if self._queue is None or self._upload is None:
            raise RuntimeError("the upload has not begun")
        self._store.give(self._queue, piece, self._upload)
        if self._upload.done():
            with _errors("write", self._name):
                self._upload.result()

    def _end(self) -> None:
        if self._upload is not None and self._queue is not None and not self._upload.done():
            self._store.drop(self._queue, self._upload)
        self._upload = self._queue = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._end()
