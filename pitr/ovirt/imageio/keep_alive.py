# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep a transfer open while pitr does not read from it, for example because the reader of the data is slow."""

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

#: Seconds between two requests. The engine ends an idle transfer after its inactivity timeout, by default 60 s.
INTERVAL_S = 20.0


@contextmanager
def kept_alive(address: ImageioAddress, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Request the transfer's options every `interval_s` seconds, which counts as use. This needs one connection.

    The engine's own "extend" does not count. Failures are only logged, because the readers of the data report them.
    """
    cancellation = Cancellation()

    def keep_asking() -> None:
        with cancelled_by(cancellation):
            while not cancellation.wait(interval_s):
                try:
                    ask(address, "keep the transfer open", ImageioSession.options, timeout_s=interval_s)
                except (Cancelled, ImageioError) as error:
                    if not cancellation.is_cancelled():
                        _log.warning("%s", error)

    thread = threading.Thread(target=keep_asking, name="keep-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        cancellation.cancel()
        thread.join()


class KeptAliveSource(WrappedSource[Source]):
    """A source on a transfer that `kept_alive` keeps open; it leaves one connection for that."""

    @property
    def max_readers(self) -> int:
        return max(1, super().max_readers - 1)
