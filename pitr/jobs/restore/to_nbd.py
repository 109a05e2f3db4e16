# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to an export of an NBD server, which holds an old state of the disk: only what differs is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.clipped import Clipped
from pitr.endpoints.images.nbd_export import NbdSink, NbdSource
from pitr.jobs.restore.outcome import TargetOutcome, TargetPlace
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Stream
from pitr.reporting import Notify
from pitr.text import printable


class NbdTarget:
    """Writes one disk to the export `url`, which has at least its size; bytes behind the disk stay.

    With a `verifier` the export is read back and compared.
    """

    vm_id: str | None = None

    def __init__(self, url: str, stream: Stream, *, verifier: Verifier | None, notify: Notify) -> None:
        self._url = url
        self._stream = stream
        self._verifier = verifier
        self._notify = notify
        self._open: NbdSink | None = None

    def reads_zero(self, stream: Stream) -> bool:
        return False

    @contextmanager
    def present(self, stream: Stream) -> Iterator[Source]:
        if self._open is not None:
            # Over the connections that write: a server may accept only one.
            yield Clipped(self._open.present(), stream.size)
            return
        with NbdSource(self._url) as export:
            yield Clipped(export, stream.size)

    def expected_name(self, stream: Stream) -> str | None:
        return self._url

    def outcome(self) -> TargetOutcome:
        place = TargetPlace(self._url, "raw", False, None)
        return TargetOutcome({self._stream.disk_id: place})

    def prepare(self) -> None:
        pass

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        sink = NbdSink(self._url, source.size)
        try:
            if sink.export_size > source.size:
                self._notify(
                    f"the NBD export has {sink.export_size} bytes, and the disk {source.size}: the rest stays as it is"
                )
            self._open = sink
            yield self._url, sink
        except BaseException:
            sink.abort()
            raise
        finally:
            self._open = None
        if self._verifier is not None:
            with NbdSource(self._url) as export:
                copied = Clipped(export, source.size)
                self._verifier.check_copy(stream.disk_id, printable(stream.name), source, copied)

    def finish(self) -> None:
        pass

    def undo(self) -> None:
        pass
