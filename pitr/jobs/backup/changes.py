# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognize that the list of a disk's changes is lost, so that the same run can take a full backup.

The engine does not always notice a lost bitmap. It can accept an incremental backup, report it as ready, and then
stop the transfer; or ovirt-imageio cannot list the changes. A network that is down and an expired ticket are other
failures: a full backup would not help.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from pitr.copier.protocols import Reader
from pitr.copier.wrapped import WrappedSource
from pitr.errors import EngineError, ImageioError, IncrementalStopped, TransferStopped
from pitr.ovirt.engine import Disk, Transfer
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
from pitr.system.closing import Closes
from pitr.text import printable

_LOST = "the host has probably lost the disk's bitmap"


def start_stopped(disk: Disk, error: TransferStopped) -> IncrementalStopped:
    """Return the error for an incremental disk whose transfer the engine could not start."""
    return IncrementalStopped(
        f"disk {printable(disk.name)}: the engine stopped the download of its changes before it started; {_LOST} "
        f"({error.message})",
        error.advice,
        disk_name=disk.name,
    )


def unlisted(
    disk: Disk, transfer: Transfer, address: ImageioAddress, error: ImageioError
) -> tuple[ImageioSource, str]:
    """Return a source of the whole disk, and why its changes cannot be listed, after `error`.

    Raises `error` if that is another failure, IncrementalStopped if this transfer cannot read the disk at all.
    """
    _raise_if_stopped(disk, transfer, error)
    if error.status != HTTPStatus.BAD_REQUEST and not _is_failed_export(error):
        raise error
    whole = ImageioSource(address, "zero", engine_size=disk.size)
    try:
        whole.extents()
    except ImageioError as second:
        if second.status is None:
            raise
        raise _stopped(disk, error) from second
    return whole, f"disk {printable(disk.name)}: {error.message}; {_LOST}"


def with_events(why: str, events: Sequence[str]) -> str:
    """Return the reason for a full backup, with the engine's own words."""
    return f"{why}; the engine reports: {'; '.join(events)}" if events else why


class WatchedSource(WrappedSource[ImageioSource]):
    """The changes of a disk. Its readers raise IncrementalStopped when a full backup can help."""

    def __init__(self, source: ImageioSource, disk: Disk, transfer: Transfer) -> None:
        super().__init__(source)
        self._disk = disk
        self._transfer = transfer

    def open_reader(self) -> Reader:
        return _WatchedReader(super().open_reader(), self._disk, self._transfer)


class _WatchedReader(Closes):
    def __init__(self, reader: Reader, disk: Disk, transfer: Transfer) -> None:
        self._reader = reader
        self._disk = disk
        self._transfer = transfer

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        try:
            self._reader.read_ranges(ranges, buffer)
        except ImageioError as error:
            _raise_if_stopped(self._disk, self._transfer, error)
            if _is_failed_export(error):
                raise _stopped(self._disk, error) from error
            raise

    def close(self) -> None:
        self._reader.close()


def _stopped(disk: Disk, error: ImageioError) -> IncrementalStopped:
    return IncrementalStopped(
        f"disk {printable(disk.name)}: {error.message}", error.advice, disk_name=disk.name
    )


def _is_failed_export(error: ImageioError) -> bool:
    """Return whether ovirt-imageio reached the host's NBD export, or failed to: then it answers with a 5xx."""
    return error.status is not None and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _raise_if_stopped(disk: Disk, transfer: Transfer, error: ImageioError) -> None:
    """Raise IncrementalStopped if the engine itself stopped the transfer."""
    try:
        phase = transfer.phase_if_stopped()
    except EngineError as problem:
        error.add_note(f"cannot check the transfer: {problem.message}")
        return
    if phase is not None:
        raise IncrementalStopped(
            f"disk {printable(disk.name)}: the engine stopped the transfer before pitr had read all changes (it is "
            f"{phase})",
            "Check the engine's events, and the log of ovirt-imageio on the host.",
            disk_name=disk.name,
        ) from error
