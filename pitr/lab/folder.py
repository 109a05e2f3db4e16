# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's folder: short, private, and removed when the lab ends for any reason."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Unix sockets are in the folder, and their paths are limited to 107 bytes.
_PREFIX = "pitr-lab-"
_LOCK = "lock"


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived while a lab was open. It unwinds the program, so that everything closes in order.

    If the handler itself closed the lab, it could wait for a lock of the interrupted code.
    """


@contextmanager
def lab_folder(folder: Path | None, *, close: Callable[[], None]) -> Iterator[Path]:
    """Yield the folder to work in: `folder`, which stays, or a temporary folder that is removed at the end.

    When the interpreter exits with the lab open, `close` is called: it has to end the lab. SIGTERM becomes
    Terminated, unless the program has a handler of its own.
    """
    with _called_at_the_end(close):
        if folder is not None:
            yield folder
            return
        _remove_abandoned(Path(tempfile.gettempdir()))
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _take_lock(made)
        try:
            yield made
        finally:
            shutil.rmtree(made)
            os.close(lock)


@contextmanager
def _called_at_the_end(close: Callable[[], None]) -> Iterator[None]:
    def on_sigterm(signum: int, _frame: FrameType | None) -> None:
        raise Terminated(f"{signal.Signals(signum).name}")

    # A program with its own handler leaves the lab's context itself.
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, on_sigterm)
    atexit.register(close)
    try:
        yield
    finally:
        atexit.unregister(close)
        if is_ours and signal.getsignal(signal.SIGTERM) is on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of killed labs: no process holds their locks."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            is_mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC) if is_mine else None
        except OSError:
            # Another process has just created or removed it.
            continue
        if lock is None:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _take_lock(folder: Path) -> int:
    """Lock a new folder until the descriptor is closed or its process dies.

    The lock gets its name when it is held: a folder whose lock is there and free is an abandoned one.
    """
    new = folder / f"{_LOCK}.new"
    lock = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)
    return lock
