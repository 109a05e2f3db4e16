# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes that start at once and have all that this process had loaded and set: forks of an early copy of it.

A process with several threads cannot be forked safely. So `Template` copies the process while it has one thread, and
every child is a copy of that copy. A child carries out several calls at the same time, each in a thread. Children stop
their calls when they get SIGTERM, and get it when their parent dies; they do not get the terminal's Ctrl-C. Messages
are pickles between processes of one user, over a socket without a name.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn

from pitr.errors import PitrError
from pitr.system.closing import Closes

#: How often a call looks whether it is to stop.
_POLL_S: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1
#: So long may calls take to stop when their caller is gone.
_ORDERLY_S: Final = 60.0


class ChildDied(PitrError):
    """A child ended without an answer: somebody killed it, or the machine had no memory left."""

    def __init__(self, message: str = "the process that did the work was killed", advice: str = "") -> None:
        super().__init__(message, advice or "The system's log may say why: often the memory was full.")


class ChildFailed(Exception):
    """A defect of pitr showed in a child. The text has the child's traceback."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call in a child: `tell` sends a value to the caller, `stopped` says whether the call is to stop."""

    tell: Callable[[Any], None]
    stopped: Callable[[], bool]


class Template(Closes):
    """A copy of this process that children are forked from. Open it in the main thread, as early as possible."""

    def __init__(self) -> None:
        """Fork this process. It must have one thread (`can_fork`)."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            here.close()
            _fork_on_request(there, parent)
        there.close()
        self._pid = pid
        self._socket = here
        self._lock = threading.Lock()

    def child(self) -> Child:
        """Fork a child, which waits for calls. The caller closes it. Raises ChildDied if the template died."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with there:
            connection = Connection(here.detach())
            try:
                with self._lock:
                    socket.send_fds(self._socket, [b"f"], [there.fileno()])
            except OSError as error:
                connection.close()
                raise ChildDied from error
        return Child(connection)

    def close(self) -> None:
        """End the template and its children; a child that still works gets SIGTERM."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)


class Child(Closes):
    """A process that carries out calls. Any number of threads use it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._numbers = count()
        self._calls: dict[int, SimpleQueue[tuple[str, Any]]] = {}
        self._dead = False
        #: How many callers have chosen this child. The lock of `Children` guards it.
        self.chosen = 0
        self._reader = threading.Thread(target=self._read, name="child", daemon=True)
        self._reader.start()

    @property
    def is_dead(self) -> bool:
        """Whether the child takes no more calls."""
        return self._dead

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        told: Callable[[Any], None],
        stopped: Callable[[], bool],
    ) -> Any:
        """Return `function(*arguments, call)`, which the child calls in a thread; `call` is a Call.

        `function` is a function of a module. Raises what it raises if that is a PitrError, ChildDied, and ChildFailed
        for a defect. After an error of `told`, the call is stopped, too.
        """
        answers: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        number = next(self._numbers)
        self._calls[number] = answers
        try:
            self._send(("call", number, function, arguments))
            return self._answer(number, answers, told, stopped)
        finally:
            del self._calls[number]

    def _answer(
        self,
        number: int,
        answers: SimpleQueue[tuple[str, Any]],
        told: Callable[[Any], None],
        stopped: Callable[[], bool],
    ) -> Any:
        is_told = False
        broken: list[Exception] = []
        while True:
            if not is_told and (broken or stopped()):
                is_told = True
                self._send(("stop", number))
            # The reader may have ended before this call was there.
            is_last = self._dead and answers.empty()
            kind: str = "died" if is_last else ""
            value: Any = None
            with suppress(Empty):
                kind, value = answers.get(timeout=0 if is_last else _POLL_S)
            if broken and kind in ("result", "error", "failed"):
                raise broken[0]
            match kind:
                case "told" if not broken:
                    try:
                        told(value)
                    except Exception as error:  # noqa: BLE001 - raised once the call has stopped
                        broken.append(error)
                case "died":
                    raise ChildDied
                case "result":
                    return value
                case "error":
                    raise value
                case "failed":
                    raise ChildFailed(value)

    def _send(self, message: Any) -> None:
        # What has arrived before the end counts: `_answer` finds out about the end.
        with suppress(OSError), self._lock:
            self._connection.send(message)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, kind, value = self._connection.recv()
                answers = self._calls.get(number)
                if answers is not None:
                    answers.put((kind, value))
        self._dead = True

    def close(self) -> None:
        """Let the child stop the calls that it works on, and end."""
        # Closing alone would not end the wait of the reader.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_WR)
        self._reader.join()
        self._connection.close()


class Children(Closes):
    """Up to `most` children, started when they are needed. Any number of threads use it."""

    def __init__(self, template: Template, most: int) -> None:
        self._template = template
        self._most = most
        self._lock = threading.Lock()
        self._children: list[Child] = []

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        told: Callable[[Any], None],
        stopped: Callable[[], bool],
    ) -> Any:
        """Let the child with the fewest calls do it; see `Child.call`."""
        child = self._choose()
        try:
            return child.call(function, *arguments, told=told, stopped=stopped)
        finally:
            with self._lock:
                child.chosen -= 1

    def _choose(self) -> Child:
        with self._lock:
            for child in [child for child in self._children if child.is_dead]:
                child.close()
                self._children.remove(child)
            least = min(self._children, key=lambda child: child.chosen, default=None)
            if least is None or (least.chosen and len(self._children) < self._most):
                least = self._template.child()
                self._children.append(least)
            least.chosen += 1
            return least

    def close(self) -> None:
        """Let the children end."""
        with self._lock:
            for child in self._children:
                child.close()
            self._children.clear()


def can_fork() -> bool:
    """Return whether this process has one thread. Libraries' own threads count, too."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


def die_with(parent: int) -> None:
    """Let the system send SIGTERM to this process when its parent dies, which had this id when it forked."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _fork_on_request(requests: socket.socket, parent: int) -> NoReturn:
    """Be the template: fork a child for each request, until the other end is closed."""
    try:
        # A signal here must not end waits of the parent.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        die_with(parent)
        here = os.getpid()
        children: set[int] = set()
        while True:
            data, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
            if not data:
                _end(children)
                os._exit(0)
            child = os.fork()
            if child == 0:
                requests.close()
                _work(Connection(descriptors[0]), here)
            os.close(descriptors[0])
            children.add(child)
            _reap(children)
    finally:
        os._exit(1)


def _reap(children: set[int], options: int = os.WNOHANG) -> None:
    """Take the children that have ended out of the set."""
    for child in list(children):
        if os.waitpid(child, options)[0]:
            children.remove(child)


def _end(children: set[int]) -> None:
    """Wait for the children: those without work end by themselves, the others get SIGTERM."""
    _reap(children)
    for child in children:
        os.kill(child, signal.SIGTERM)
    _reap(children, 0)


def _work(connection: Connection, parent: int) -> NoReturn:
    """Be a child: carry out calls until the other end is closed."""
    try:
        work = _Work(connection)
        signal.signal(signal.SIGTERM, lambda *_: work.stop_all())
        die_with(parent)
        with suppress(EOFError, OSError):
            work.take_calls()
        work.stop_all()
        # A call that waits for a machine that does not answer must not outlive its caller for long.
        threading.Timer(_ORDERLY_S, os._exit, (1,)).start()
        work.wait()
        _flush()
    finally:
        for last in _at_end:
            with suppress(Exception):
                last()
        os._exit(0)


class _Work:
    """The calls of a child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._stopping = False
        self._stops: dict[int, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def take_calls(self) -> None:
        """Start a thread for each call. Raises EOFError at the end."""
        while True:
            message = self._connection.recv()
            if message[0] == "stop":
                if (stop := self._stops.get(message[1])) is not None:
                    stop.set()
                continue
            _, number, function, arguments = message
            self._stops[number] = threading.Event()
            thread = threading.Thread(
                target=self._called, args=(number, function, arguments), name=f"call-{number}"
            )
            self._threads = [*(known for known in self._threads if known.is_alive()), thread]
            thread.start()

    def stop_all(self) -> None:
        """Stop all calls, now and from now on. A signal handler calls it."""
        self._stopping = True

    def wait(self) -> None:
        """Wait for all calls."""
        for thread in self._threads:
            thread.join()

    def _called(self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        stop = self._stops[number]
        call = Call(lambda value: self._send(number, "told", value), lambda: self._stopping or stop.is_set())
        try:
            result = "result", function(*arguments, call)
        except PitrError as error:
            result = "error", error
        except BaseException:  # noqa: BLE001 - the caller reports it
            result = "failed", traceback.format_exc()
        del self._stops[number]
        self._send(number, *result)

    def _send(self, number: int, kind: str, value: Any) -> None:
        # If the caller is gone, the call is stopped.
        with suppress(OSError), self._lock:
            self._connection.send((number, kind, value))


_at_end: list[Callable[[], object]] = []


def at_end(last: Callable[[], object]) -> None:
    """Call `last` once when this child ends in order."""
    if last not in _at_end:
        _at_end.append(last)
