# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup of a running VM: its disks at one moment, while the guest continues to write.

What libvirt does: a scratch image over each disk, to which qemu copies what the guest is about to overwrite.
The scratch image shows the disk at that moment.

    guest ── writes ──> [copy before write] ──> disk
                              │ old bytes         ↑ everything else
                              v                   │
    backup <── reads ────  scratch ───────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pitr.lab.host.backup import HostBackupDisk
from pitr.lab.host.running_vm import RunningVM
from pitr.lab.host.volume import HostVolume
from pitr.system.process import run


class LiveBackup:
    """A point-in-time backup of all `disks` of `vm`. The caller closes it. Raises LabError.

    `name` is short and unique in the VM; scratch images go to `folder`.
    """

    def __init__(self, vm: RunningVM, name: str, folder: Path, disks: Sequence[HostBackupDisk]) -> None:
        self._name = name
        self._folder = folder
        self._vm = vm
        self._daemon = vm.daemon
        self._urls: dict[str, str] = {}
        with ExitStack() as undo, ExitStack() as checkpoint:
            for disk in disks:
                self._add_scratch(disk.volume, undo)
            self._begin(disks, undo, checkpoint)
            for disk in disks:
                self._add_export(disk, undo)
            checkpoint.pop_all()
            self._undo = undo.pop_all()

    @property
    def urls(self) -> Mapping[str, str]:
        return self._urls

    def close(self) -> None:
        self._undo.close()

    def _add_scratch(self, volume: HostVolume, undo: ExitStack) -> None:
        path = self._folder / f"{self._of(volume)}.scratch"
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(volume.size)])
        undo.callback(path.unlink)
        self._daemon.execute(
            "blockdev-add",
            {
                "driver": "qcow2",
                "node-name": self._of(volume),
                "file": {"driver": "file", "filename": str(path)},
                "backing": volume.node,
            },
        )
        undo.callback(self._daemon.execute, "blockdev-del", {"node-name": self._of(volume)})

    def _begin(self, disks: Sequence[HostBackupDisk], undo: ExitStack, checkpoint: ExitStack) -> None:
        """Fix the point in time for all disks at once.

        The jobs come first: each keeps its disk quiet until the whole transaction is done, so that a write
        is either in the point and in the bitmaps that end with it, or in neither. With the bitmaps first,
        that would rest on qemu never serving the guest between two actions.
        """
        actions: list[tuple[str, dict[str, object]]] = [
            (
                "blockdev-backup",
                {
                    "job-id": self._of(disk.volume),
                    "device": disk.volume.node,
                    "target": self._of(disk.volume),
                    "sync": "none",
                },
            )
            for disk in disks
        ]
        for disk in disks:
            node = disk.volume.node
            if disk.changed is not None:
                temporary = {"node": node, "name": self._name, "persistent": False, "disabled": True}
                actions.append(("block-dirty-bitmap-add", temporary))
                merge: dict[str, object] = {"node": node, "target": self._name, "bitmaps": list(disk.changed)}
                actions.append(("block-dirty-bitmap-merge", merge))
            if disk.checkpoint is not None:
                if disk.active is not None:
                    actions.append(("block-dirty-bitmap-disable", {"node": node, "name": disk.active}))
                actions.append(
                    ("block-dirty-bitmap-add", {"node": node, "name": disk.checkpoint, "persistent": True})
                )
        self._daemon.transaction(actions)
        for disk in disks:
            if disk.changed is not None:
                bitmap = {"node": disk.volume.node, "name": self._name}
                undo.callback(self._daemon.execute, "block-dirty-bitmap-remove", bitmap)
            undo.callback(self._daemon.cancel_job, self._of(disk.volume))
            if disk.checkpoint is not None:
                checkpoint.callback(
                    self._vm.delete_bitmap, disk.volume, disk.checkpoint, parent=disk.active, active=True
                )

    def _add_export(self, disk: HostBackupDisk, undo: ExitStack) -> None:
        export = self._of(disk.volume)
        bitmap = (disk.volume.node, self._name) if disk.changed is not None else None
        self._daemon.add_export(export, export, writable=False, bitmap=bitmap)
        undo.callback(self._daemon.remove_export, export)
        self._urls[disk.volume.id] = self._daemon.export_url(export)

    def _of(self, volume: HostVolume) -> str:
        """Return the name that this backup uses for a volume's nodes, jobs and exports."""
        return f"{self._name}-{volume.node}"
