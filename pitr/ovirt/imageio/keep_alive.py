# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping a transfer open while nothing is read from it, because whoever takes the data is slow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.copier.protocols import Source
from pitr.copier.wrapped import WrappedSource
from pitr.errors import ImageioError
from pitr.ovirt.imageio.session import ImageioAddress, ImageioSession, ask
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by

_log = logging.getLogger(__name__)

#: The engine ends a transfer that was idle for its inactivity timeout, which is 60 s where none was asked for.
INTERVAL_S = 20.0


@contextmanager
def kept_alive(address: ImageioAddress, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Ask for the transfer's options now and then: that counts as use. It takes one connection.

    The engine's own "extend" does not count. A failure is left to those who read the data.
    """
    cancellation = Cancellation()

    def ask_now_and_then() -> None:
        with cancelled_by(cancellation):
            while not cancellation.wait(interval_s):
                try:
                    ask(address, "keep the transfer open", ImageioSession.options, timeout_s=interval_s)
                except (Cancelled, ImageioError) as error:
                    if not cancellation.is_cancelled():
                        _log.warning("%s", error)

    thread = threading.Thread(target=ask_now_and_then, name="keep-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        cancellation.cancel()
        thread.join()


class KeptAliveSource(WrappedSource[Source]):
    """A source whose transfer is kept alive through one of its connections."""

    @property
    def max_readers(self) -> int:
        return max(1, super().max_readers - 1)
