# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup of volumes that no VM uses: qemu-img changes the bitmaps, qemu-nbd serves the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pitr.lab.host.backup import HostBackupDisk
from pitr.lab.host.children import Children
from pitr.lab.host.image_server import ImageServer
from pitr.lab.host.volume import change_bitmap


class ColdBackup:
    """A backup of volumes that do not change. The caller closes it. Raises LabError and ProgramFailed.

    `name` is short and unique; sockets go to `folder`.
    """

    def __init__(self, children: Children, name: str, folder: Path, disks: Sequence[HostBackupDisk]) -> None:
        self._urls: dict[str, str] = {}
        # Undo in reverse order: a bitmap cannot change while a server has the image open.
        with ExitStack() as bitmaps, ExitStack() as checkpoint, ExitStack() as servers:
            for disk in disks:
                _change_bitmaps(disk, name, bitmaps, checkpoint)
            for disk in disks:
                socket = folder / f"{name}-{disk.volume.node}"
                bitmap = name if disk.changed is not None else None
                server = ImageServer(children, disk.volume, socket, read_only=True, bitmap=bitmap)
                servers.callback(server.close)
                self._urls[disk.volume.id] = server.url
            self._servers = servers.pop_all()
            self._bitmaps = bitmaps.pop_all()
            checkpoint.pop_all()

    @property
    def urls(self) -> Mapping[str, str]:
        return self._urls

    def close(self) -> None:
        with self._bitmaps:
            self._servers.close()


def _change_bitmaps(disk: HostBackupDisk, temporary: str, bitmaps: ExitStack, checkpoint: ExitStack) -> None:
    volume = disk.volume
    if disk.changed is not None:
        merges = [word for bitmap in disk.changed for word in ("--merge", bitmap)]
        change_bitmap(volume, temporary, ["--add", "--disable", *merges])
        bitmaps.callback(change_bitmap, volume, temporary, ["--remove"])
    if disk.checkpoint is not None:
        if disk.active is not None:
            change_bitmap(volume, disk.active, ["--disable"])
            checkpoint.callback(change_bitmap, volume, disk.active, ["--enable"])
        change_bitmap(volume, disk.checkpoint, ["--add"])
        checkpoint.callback(change_bitmap, volume, disk.checkpoint, ["--remove"])
