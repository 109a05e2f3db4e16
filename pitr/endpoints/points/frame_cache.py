# SPDX-License-Identifier: GPL-2.0-or-later
"""The most recently used frames, decompressed, for many threads that read points at random.

A frame that several threads want at once is loaded once. A reader can ask for frames ahead: a thread of the cache loads
them, or the reader that wants one first.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, Protocol

from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.errors import PitrError
from pitr.repository.blob import Decompressor
from pitr.system.closing import Closes

_log = logging.getLogger(__name__)

#: The cache drops requests to read ahead beyond this many frames, and loads those frames when a reader wants them.
_MAX_QUEUED: Final = 64


class FrameOwner(Protocol):
    """The source of frames. The cache compares and hashes it by identity."""

    def load(self, layer: int, number: int, decompressor: Decompressor) -> bytes:
        """Read a frame. Raises PitrError."""


#: The owner of the frame, the layer of its chain, and the frame's number in that layer.
FrameKey = tuple[FrameOwner, int, int]


class _Load:
    """A frame that is being loaded. The cache's lock guards `claimed_by`, a thread; `done` is set after the results."""

    __slots__ = ("claimed_by", "data", "done", "error")

    def __init__(self) -> None:
        self.claimed_by: int | None = None
        self.done = threading.Event()
        self.data = b""
        self.error: BaseException | None = None


class FrameCache(Closes):
    """Frames of up to `capacity` bytes together, and one more for each thread that loads a frame.

    Any number of threads use it. `folder` keeps frames that have no room here. Closing it stops its own threads, and
    the caller closes the folder afterwards.
    """

    def __init__(self, capacity: int, threads: int | None = None, folder: FrameFolder | None = None) -> None:
        self.capacity = capacity
        self.folder = folder
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._frames: OrderedDict[FrameKey, bytes] = OrderedDict()
        self._loads: dict[FrameKey, _Load] = {}
        self._queue: deque[FrameKey] = deque()
        self._used = 0
        self._closed = False
        self._own = threading.local()
        self._threads = [
            threading.Thread(target=self._work, name="frames", daemon=True)
            for _ in range(threads or len(os.sched_getaffinity(0)))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def used(self) -> int:
        """Return the bytes of the cached frames."""
        return self._used

    def get(self, key: FrameKey) -> bytes:
        """Return a frame. Load it in this thread unless another thread is loading it. Raises the error of its owner."""
        with self._lock:
            data = self._frames.get(key)
            if data is not None:
                self._frames.move_to_end(key)
                return data
            load = self._loads.get(key)
            if load is None:
                load = self._loads[key] = _Load()
            # A load with our own thread id is one that a signal's exception interrupted: no thread is working on it.
            mine = load.claimed_by in (None, threading.get_ident())
            if mine:
                load.claimed_by = threading.get_ident()
        if mine:
            self._run(key, load)
        else:
            load.done.wait()
        if load.error is not None:
            raise load.error
        return load.data

    def has(self, keys: Iterable[FrameKey]) -> bool:
        """Return whether the cache holds all these frames, so that a reader would not wait."""
        return all(key in self._frames for key in keys)

    def ask(self, keys: Iterable[FrameKey]) -> None:
        """Load frames ahead. An error is raised later, to the reader that gets the frame."""
        with self._lock:
            if self._closed:
                return
            for key in keys:
                if len(self._queue) >= _MAX_QUEUED:
                    return
                if key not in self._frames and key not in self._loads:
                    self._loads[key] = _Load()
                    self._queue.append(key)
                    self._wanted.notify()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for key in self._queue:
                # A thread that has claimed a load finishes it.
                load = self._loads.get(key)
                if load is not None and load.claimed_by is None:
                    del self._loads[key]
            self._queue.clear()
            self._wanted.notify_all()
        for thread in self._threads:
            thread.join()
        with self._lock:
            self._frames.clear()
            self._used = 0

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._closed:
                    self._wanted.wait()
                if self._closed:
                    return
                key = self._queue.popleft()
                load = self._loads.get(key)
                if load is None or load.claimed_by is not None:
                    continue
                load.claimed_by = threading.get_ident()
            self._run(key, load)
            # This is a defect, and perhaps no thread waits for the frame. Other errors reach the reader that wants it.
            if load.error is not None and not isinstance(load.error, PitrError | MemoryError):
                _log.error("cannot load a frame", exc_info=load.error)

    def _run(self, key: FrameKey, load: _Load) -> None:
        owner, layer, number = key
        load.error = None
        try:
            load.data = owner.load(layer, number, self._decompressor())
        except BaseException as error:  # noqa: BLE001 - all waiting readers get it; none may wait for ever
            load.error = error
        with self._lock:
            self._loads.pop(key, None)
            if load.error is None:
                self._keep(key, load.data)
        load.done.set()

    def _keep(self, key: FrameKey, data: bytes) -> None:
        if len(data) > self.capacity:
            return
        self._frames[key] = data
        self._used += len(data)
        while self._used > self.capacity:
            _, oldest = self._frames.popitem(last=False)
            self._used -= len(oldest)

    def _decompressor(self) -> Decompressor:
        decompressor: Decompressor | None = getattr(self._own, "decompressor", None)
        if decompressor is None:
            decompressor = self._own.decompressor = Decompressor()
        return decompressor
