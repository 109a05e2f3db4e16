# SPDX-License-Identifier: GPL-2.0-or-later
"""A running VM: its volumes in a qemu-storage-daemon, each writable by the guest over NBD."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pitr.errors import LabError
from pitr.lab.host.children import Children
from pitr.lab.host.storage_daemon import StorageDaemon
from pitr.lab.host.volume import HostVolume


class RunningVM:
    """The block layer of one VM. The caller closes it, which is a clean shutdown. Raises LabError."""

    def __init__(self, children: Children, nbd_socket: Path, volumes: Iterable[HostVolume]) -> None:
        self._volumes: dict[str, HostVolume] = {}
        self.daemon = StorageDaemon(children, nbd_socket)
        try:
            for volume in volumes:
                self.attach(volume)
        except BaseException:
            self.close()
            raise

    def attach(self, volume: HostVolume) -> None:
        """Plug a volume in; the guest can write to it at once."""
        if self.has(volume):
            raise LabError(f"volume {volume.id} is plugged in already")
        self.daemon.execute(
            "blockdev-add",
            {
                "driver": volume.qemu_format,
                "node-name": volume.node,
                # Discards of the guest must reach the image; zeroes that it writes must stay data.
                "discard": "unmap",
                "detect-zeroes": "off",
                "file": {"driver": "file", "filename": str(volume.path), "discard": "unmap"},
            },
        )
        try:
            self.daemon.add_export(_guest_export(volume), volume.node, writable=True)
        except BaseException:
            self.daemon.execute("blockdev-del", {"node-name": volume.node})
            raise
        self._volumes[volume.id] = volume

    def detach(self, volume: HostVolume) -> None:
        """Unplug a volume that no backup reads; its bitmaps are stored in the image."""
        self.daemon.remove_export(_guest_export(volume))
        self.daemon.execute("blockdev-del", {"node-name": volume.node})
        del self._volumes[volume.id]

    def has(self, volume: HostVolume) -> bool:
        return volume.id in self._volumes

    def guest_url(self, volume: HostVolume) -> str:
        return self.daemon.export_url(_guest_export(volume))

    def bitmaps(self, volume: HostVolume) -> set[str]:
        return self.daemon.bitmaps(volume.node)

    def delete_bitmap(self, volume: HostVolume, bitmap: str, *, parent: str | None, active: bool) -> None:
        """Merge a bitmap into `parent` and remove it. If it is active, its parent becomes active."""
        actions: list[tuple[str, dict[str, object]]] = []
        if parent is not None:
            if active:
                # Do this first, because the guest can write between the actions.
                actions.append(("block-dirty-bitmap-enable", {"node": volume.node, "name": parent}))
            actions.append(
                ("block-dirty-bitmap-merge", {"node": volume.node, "target": parent, "bitmaps": [bitmap]})
            )
        actions.append(("block-dirty-bitmap-remove", {"node": volume.node, "name": bitmap}))
        self.daemon.transaction(actions)

    def resize(self, volume: HostVolume, size: int) -> None:
        """Make a volume larger. The guest's connections close, because the size of an NBD export cannot change."""
        self.daemon.remove_export(_guest_export(volume))
        try:
            self.daemon.execute("block_resize", {"node-name": volume.node, "size": size})
        finally:
            self.daemon.add_export(_guest_export(volume), volume.node, writable=True)

    def close(self) -> None:
        self.daemon.close()

    def crash(self) -> None:
        """Stop the VM like a power failure, instead of closing it: its bitmaps are not stored."""
        self.daemon.kill()


def _guest_export(volume: HostVolume) -> str:
    return f"guest-{volume.node}"
