# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and write a disk like the guest of a running VM."""

from __future__ import annotations

from pitr.nbd import client as nbd
from pitr.system.closing import Closes


class Guest(Closes):
    """One disk as its running VM sees it; for one thread at a time. The caller closes it.

    Offsets and lengths are bytes. Raises NbdError, when the VM was stopped for example.
    """

    def __init__(self, url: str) -> None:
        self._client = nbd.Client(*nbd.parse_url(url))

    @property
    def size(self) -> int:
        return self._client.size

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self._client.read_into(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data; zeroes in it remain data on the disk."""
        self._client.write(offset, data)

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range with a zero command (qemu-io's `write -z`, with `unmap` `write -z -u`), not with data."""
        self._client.zero(offset, length, unmap=unmap)

    def discard(self, offset: int, length: int) -> None:
        """Discard a range; whole clusters of a qcow2 volume then read as zero."""
        self._client.discard(offset, length)

    def flush(self) -> None:
        self._client.flush()

    def close(self) -> None:
        self._client.close()
