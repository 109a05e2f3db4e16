# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of restored disks with the repository, by checksums of the whole content (pitr.ovirt.imageio.checksum)."""

from __future__ import annotations

from pitr.copier.protocols import Source
from pitr.endpoints.points.passed_once import PassedOnce
from pitr.errors import DamageError
from pitr.ovirt.imageio.checksum import DiskChecksum, checksum, server_checksum
from pitr.ovirt.imageio.disk import ImageioSource
from pitr.ovirt.imageio.keep_alive import kept_alive
from pitr.ovirt.imageio.session import ImageioAddress

_ADVICE = "Restore again; if it fails again, check the storage and the log of its host."


class Verifier:
    """Compares restored disks with the repository; `checksums` has the checksum of each verified disk by its id."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.checksums: dict[str, str] = {}

    def check_on_server(self, disk_id: str, name: str, source: Source, address: ImageioAddress) -> None:
        """Compare the uploaded disk with the point. Raises DamageError if they differ, ImageioError."""
        # Reading a large point again takes longer than the engine allows a transfer to be idle.
        with kept_alive(address):
            if isinstance(source, PassedOnce):
                self._compare_with_passed(name, source, ImageioSource(address))
                self.checksums[disk_id] = server_checksum(address).checksum
            else:
                self._compare(disk_id, name, source, server_checksum(address))

    def check_copy(self, disk_id: str, name: str, source: Source, copied: Source) -> None:
        """Compare an image that can be read back with the point. Raises DamageError if they differ."""
        computed = DiskChecksum(copied.size, checksum(copied, workers=self._workers))
        if isinstance(source, PassedOnce):
            self._compare_with_passed(name, source, copied)
            self.checksums[disk_id] = computed.checksum
        else:
            self._compare(disk_id, name, source, computed)

    def _compare_with_passed(self, name: str, source: PassedOnce, copied: Source) -> None:
        # A command gives each blob once only: the source has kept digests of the bytes that passed.
        difference = source.first_difference(copied) if copied.size >= source.size else copied.size
        if difference is not None:
            raise DamageError(
                f"restored disk {name!r} differs from its blobs at byte {difference}",
                _ADVICE,
            )

    def _compare(self, disk_id: str, name: str, source: Source, computed: DiskChecksum) -> None:
        # A new disk may be a little larger than the old one: hosts round sizes up.
        if computed.size >= source.size:
            expected = checksum(source, computed.size, workers=self._workers)
            if expected == computed.checksum:
                self.checksums[disk_id] = computed.checksum
                return
        raise DamageError(
            f"restored disk {name!r} differs from the repository: its checksum is {computed.checksum} "
            f"({computed.size} bytes)",
            _ADVICE,
        )
