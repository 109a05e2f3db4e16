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
        expected = checksum(point, workers=workers)
        computed = asked.result()
    if computed.size > point.size:
        expected = checksum(point, computed.size, workers=workers)
    if computed.size < point.size or computed.checksum != expected:
        raise DamageError(
            f"disk {name} differs from the point after the rollback: its checksum is {computed.checksum} "
            f"({computed.size} bytes)",
            "Check the storage and the log of its host.",
        )
