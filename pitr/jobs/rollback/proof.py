# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof that a disk holds a point: the checksum that the server computes of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pitr.copier.protocols import Source
from pitr.errors import DamageError
from pitr.ovirt.imageio.checksum import DiskChecksum, checksum


def check_disk(name: str, point: Source, of_server: Callable[[], DiskChecksum], *, workers: int) -> None:
    """Compare the server's checksum of a disk with that of `point`; both are computed at the same time.

    Bytes behind the end of the point count as zero. Raises DamageError if they differ, and the errors of both sides.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="checksum") as pool:
        asked = pool.submit(of_server)
        expected = DiskChecksum(point.size, checksum(point, workers=workers))
        computed = asked.result()
    if not holds(point, expected, computed, workers=workers):
        raise differs(name, computed)


def holds(point: Source, expected: DiskChecksum, computed: DiskChecksum, *, workers: int) -> bool:
    """Return whether a disk with the checksum `computed` holds `point`, whose checksum is `expected`.

    Bytes behind the end of the point count as zero. The point is read again if the sizes differ, because a host can
    make a disk larger. Raises the errors of the point.
    """
    if computed.size < point.size:
        return False
    if computed.size != expected.size:
        expected = DiskChecksum(computed.size, checksum(point, computed.size, workers=workers))
    return computed.checksum == expected.checksum


def differs(name: str, computed: DiskChecksum) -> DamageError:
    """Return the error for a disk that does not hold the point after all has been sent."""
    return DamageError(
        f"disk {name} differs from the point after the rollback: its checksum is {computed.checksum} "
        f"({computed.size} bytes)",
        "Check the storage and the log of its host.",
    )
