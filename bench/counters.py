# SPDX-License-Identifier: GPL-2.0-or-later
"""Count what a piece of work does: calls of the system, bytes hashed and compressed, steps of SQLite, Python calls.

Such counts don't depend on the machine or on its load. Call `install` before the first import of pitr: it puts
counting versions in the place of functions of other libraries, which pitr's modules then import.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

#: The place of pitr's modules. Only calls from there count: other libraries can be of any version.
_PITR = str(Path(__file__).resolve().parents[1] / "pitr") + os.sep
#: SQLite calls back after so many of its instructions.
_STEPS = 10
IO_NAMES = frozenset({"read calls", "write calls", "bytes written"})
_IO = {"syscr": "read calls", "syscw": "write calls", "wchar": "bytes written"}
_REQUESTS = ("put", "get", "get_range", "get_ranges", "head", "list_with_delimiter", "delete")

counts: Counter[str] = Counter()
_lock = threading.Lock()
#: Counts with its steps; one step is atomic, and much quicker than `add`.
_calls = itertools.count()


def add(name: str, number: int = 1) -> None:
    """Add to a count. Any thread may call it."""
    with _lock:
        counts[name] += number


def install() -> None:
    """Count from now on. Call it before the first import of pitr."""
    if any(name == "pitr" or name.startswith("pitr.") for name in sys.modules):
        raise RuntimeError("pitr is imported already")
    _count_digests()
    _count_frames()
    _count_sqlite()
    _count_files()


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Yield the counts of the block, which are complete when it exits."""
    found: Counter[str] = Counter()
    counts.clear()
    calls = next(_calls)
    tracemalloc.start()
    before = io_counts()
    start = tracemalloc.get_traced_memory()[0]
    threading.setprofile(_profile)
    sys.setprofile(_profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1] - start
        after = io_counts()
        tracemalloc.stop()
    found.update(counts)
    found["Python calls"] = next(_calls) - calls - 1
    found.update({name: after[name] - before[name] for name in after})
    found["peak bytes"] = peak


def io_counts() -> dict[str, int]:
    """Return what the kernel counts of this process, without what is received from sockets. {} if it counts nothing."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return {}
    values = dict(line.split(": ") for line in lines)
    return {name: int(values[field]) for field, name in _IO.items()}


def _profile(frame: FrameType, event: str, argument: Any) -> None:
    if (event == "call" or event == "c_call") and frame.f_code.co_filename.startswith(_PITR):  # noqa: PLR1714
        next(_calls)


def _count_digests() -> None:
    import blake3 as library

    real = library.blake3

    class Counting:
        def __init__(self, data: Any = b"", **options: Any) -> None:
            add("hash calls", bool(len(data)))
            add("bytes hashed", memoryview(data).nbytes)
            self._real = real(data, **options)

        def update(self, data: Any, **options: Any) -> None:
            add("hash calls")
            add("bytes hashed", memoryview(data).nbytes)
            self._real.update(data, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    library.blake3 = Counting  # type: ignore[misc, assignment]


def _count_frames() -> None:
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor, zstandard.ZstdDecompressor

    class Compressor:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._real = compressor(*arguments, **options)

        def compress(self, data: Any) -> bytes:
            made: bytes = self._real.compress(data)
            add("frames compressed")
            add("bytes compressed", memoryview(data).nbytes)
            return made

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    class Decompressor:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._real = decompressor(*arguments, **options)

        def decompress(self, data: Any, *arguments: Any, **options: Any) -> bytes:
            made: bytes = self._real.decompress(data, *arguments, **options)
            add("frames decompressed")
            add("bytes decompressed", len(made))
            return made

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    zstandard.ZstdCompressor = Compressor  # type: ignore[misc, assignment]
    zstandard.ZstdDecompressor = Decompressor  # type: ignore[misc, assignment]


def _count_sqlite() -> None:
    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = real(*arguments, **options)
        connection.set_progress_handler(lambda: add("SQLite steps", _STEPS), _STEPS)
        connection.set_trace_callback(lambda statement: add("SQLite statements"))
        return connection

    sqlite3.connect = connect


def _count_files() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
            add("files opened")

    sys.addaudithook(hook)
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _counted(getattr(os, name), "syncs"))


def count_http() -> None:
    """Count the requests to imageio, once pitr is imported."""
    from pitr.ovirt.imageio.http import HttpConnection

    one, several = HttpConnection.send, HttpConnection.send_gets

    def send(self: HttpConnection, *arguments: Any, **options: Any) -> None:
        add("HTTP requests")
        one(self, *arguments, **options)

    def send_gets(self: HttpConnection, path: str, headers: Any) -> None:
        add("HTTP requests", len(headers))
        several(self, path, headers)

    HttpConnection.send = send  # type: ignore[method-assign]
    HttpConnection.send_gets = send_gets  # type: ignore[method-assign]


def count_store() -> None:
    """Count the requests to object stores. An upload in parts is one, and so is a list."""
    import obstore

    for name in _REQUESTS:
        for function in (name, f"{name}_async"):
            setattr(obstore, function, _counted(getattr(obstore, function), "store requests"))
    obstore.list = _counted(obstore.list, "store requests")  # type: ignore[assignment]


def _counted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        add(name)
        return function(*arguments, **options)

    return counted
