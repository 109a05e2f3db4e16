# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of whole disks as ovirt-imageio computes them, so that a disk can be proven where it is stored.

The content, zeroes included, is cut into blocks; a leaf is the hash of a block, the checksum the hash of all leaves
one after the other. Extents do not matter, only the bytes that a guest sees.
"""

from __future__ import annotations

from pitr.copier.protocols import Source
from pitr.endpoints.points.passed_once import PassedOnce
from pitr.errors import DamageError
from pitr.ovirt.imageio.checksum import DiskChecksum, checksum, server_checksum
from pitr.ovirt.imageio.disk import ImageioSource
from pitr.ovirt.imageio.keep_alive import kept_alive
from pitr.ovirt.imageio.session import ImageioAddress

"""(offset, length) of the data in a block."""


class Verifier:
    """Compares restored disks with the repository; `checksums` holds those of the disks that are proven."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.checksums: dict[str, str] = {}

    def check_on_server(self, disk_id: str, name: str, source: Source, address: ImageioAddress) -> None:
        """Compare what the daemon holds with the point. Raises DamageError when it is not the same, ImageioError."""
        # Reading a large point again takes longer than the engine lets a transfer be idle.
        with kept_alive(address):
            if isinstance(source, PassedOnce):
                self._compare_again(disk_id, name, source, ImageioSource(address))
                self.checksums[disk_id] = server_checksum(address).checksum
            else:
                self._compare(disk_id, name, source, server_checksum(address))

    def check_copy(self, disk_id: str, name: str, source: Source, copied: Source) -> None:
        """Compare an image that can be read back with the point. Raises DamageError when it is not the same."""
        found = DiskChecksum(copied.size, checksum(copied, workers=self._workers))
        if isinstance(source, PassedOnce):
            self._compare_again(disk_id, name, source, copied)
            self.checksums[disk_id] = found.checksum
        else:
            self._compare(disk_id, name, source, found)

    def _compare_again(self, disk_id: str, name: str, source: PassedOnce, copied: Source) -> None:
        # Its blobs were read once, which is all that can be asked for: what passed is known by its digests.
        where = source.first_difference(copied) if copied.size >= source.size else copied.size
        if where is not None:
            raise DamageError(
                f"disk {name!r} as restored is not what came from the blobs: it is different at {where}",
                "Restore again; if this stays, look at the storage and its host's log.",
            )

    def _compare(self, disk_id: str, name: str, source: Source, found: DiskChecksum) -> None:
        # A new disk may be a little larger than the old one: hosts round sizes up.
        if found.size >= source.size:
            expected = checksum(source, found.size, workers=self._workers)
            if expected == found.checksum:
                self.checksums[disk_id] = found.checksum
                return
        raise DamageError(
            f"disk {name!r} as restored is not what the repository holds: its checksum is {found.checksum} "
            f"({found.size} bytes)",
            "Restore again; if this stays, look at the storage and its host's log.",
        )
