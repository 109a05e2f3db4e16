# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of the local oVirt: a real ovirt-imageio daemon and real qemu programs, in one folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pitr.errors import LabError
from pitr.lab.host import filesystem
from pitr.lab.host.backup import HostBackup, HostBackupDisk
from pitr.lab.host.children import Children
from pitr.lab.host.cold_backup import ColdBackup
from pitr.lab.host.daemon import ImageioDaemon
from pitr.lab.host.guest import Guest
from pitr.lab.host.image_server import ImageServer
from pitr.lab.host.live_backup import LiveBackup
from pitr.lab.host.pki import make_pki
from pitr.lab.host.running_vm import RunningVM
from pitr.lab.host.volume import (
    QEMU_FORMATS,
    HostVolume,
    change_bitmap,
    convert_to_raw,
    copy_image,
    create_image,
    stored_bitmaps,
)
from pitr.system.process import require, run

#: Unix socket paths have at most 107 bytes; names below the folder have less than 24.
_MAX_FOLDER = 107 - 24
_VOLUME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class TicketTimes:
    """The daemon drops a ticket `timeout_s` seconds after its last renewal, or after `inactivity_s` without use."""

    timeout_s: int = 300
    inactivity_s: int = 60


_TICKET_TIMES = TicketTimes()


class Host:
    """One host; a context manager that starts and stops all programs. Several threads can use it.

    All it makes is in `folder`, which must exist and be short; the caller removes the folder afterwards.
    `log` gets what all programs print (default: a file in the folder). Sizes, offsets and lengths are bytes.
    Raises ProgramMissing, ProgramFailed and LabError.
    """

    def __init__(
        self, folder: Path, *, tls: bool = True, unix_socket: bool = True, log: Path | None = None
    ) -> None:
        if len(os.fsencode(folder)) > _MAX_FOLDER:
            raise LabError(f"the path of the lab's folder {folder} is too long for unix sockets")
        self._folder = folder
        self._tls = tls
        self._unix_socket = unix_socket
        self._log = log or folder / "host.log"
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._volumes: dict[str, HostVolume] = {}
        #: The checkpoints of each volume, oldest first, because qemu does not keep the order of bitmaps.
        self._history: dict[str, list[str]] = {}
        self._vms: dict[str, RunningVM] = {}
        self._backups: dict[str, HostBackup] = {}
        self._live: dict[str, str] = {}
        self._served: dict[str, ImageServer] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        require("qemu-img", "qemu-nbd", "qemu-storage-daemon", *filesystem.missing_programs())
        with ExitStack() as closing:
            for name in ("s", "scratch", "volumes"):
                (self._folder / name).mkdir()
            self._children = closing.enter_context(Children(self._log))
            pki = make_pki(self._folder / "pki")
            self.cafile, self.certificate, self.private_key = pki.cafile, pki.certificate, pki.private_key
            self._daemon = ImageioDaemon(
                self._children, self._folder / "imageio", pki, tls=self._tls, unix_socket=self._unix_socket
            )
            closing.callback(self._daemon.close)
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        # Stop everything even after a failure, so that no process remains.
        with self._lock, self._closing as closing:
            for vm in self._vms.values():
                closing.callback(vm.close)
            for server in self._served.values():
                closing.callback(server.close)
            for backup in self._backups.values():
                closing.callback(backup.close)
            for open_now in (self._vms, self._served, self._backups):
                open_now.clear()

    # Volumes

    def create_volume(
        self, volume_id: str, size: int, format: str, *, content: Path | None = None, sparse: bool = True
    ) -> HostVolume:
        """Create a volume of `format` "cow" or "raw", empty or with the bytes of the raw image `content`."""
        with self._lock:
            if not _VOLUME_ID.fullmatch(volume_id) or format not in QEMU_FORMATS:
                raise LabError(
                    f"cannot create volume {volume_id!r} of format {format!r}: invalid id or format"
                )
            if volume_id in self._volumes:
                raise LabError(f"volume {volume_id} exists already")
            path = self._folder / "volumes" / f"{volume_id}.{QEMU_FORMATS[format]}"
            volume = HostVolume(volume_id, path, size, format, f"v{next(self._numbers)}")
            try:
                create_image(volume, content=content, sparse=sparse)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            self._volumes[volume_id] = volume
            self._history[volume_id] = []
            return volume

    def volume(self, volume_id: str) -> HostVolume:
        try:
            return self._volumes[volume_id]
        except KeyError:
            raise LabError(f"volume {volume_id} not found") from None

    def delete_volume(self, volume_id: str) -> None:
        with self._lock:
            volume = self._free_volume(volume_id)
            volume.path.unlink()
            del self._volumes[volume_id], self._history[volume_id]

    def grow_volume(self, volume_id: str, size: int) -> None:
        """Make a volume larger; its checkpoints stay, and the new part reads as zero."""
        with self._lock:
            volume = self.volume(volume_id)
            vm = self._vm_of(volume)
            if vm is not None:
                vm.resize(volume, size)
            else:
                self._free_volume(volume_id)
                run(["qemu-img", "resize", "-q", "-f", volume.qemu_format, str(volume.path), str(size)])
            self._volumes[volume_id] = replace(volume, size=size)

    def copy_volume(self, volume_id: str, new_id: str, *, sparse: bool = True) -> HostVolume:
        """Copy an unused volume to a new one of the same size and format, without its checkpoints."""
        with self._lock:
            volume = self._free_volume(volume_id)
            copy = self.create_volume(new_id, volume.size, volume.format, sparse=sparse)
            try:
                copy_image(volume, copy)
            except BaseException:
                self.delete_volume(new_id)
                raise
            return copy

    def replace_volume(self, volume_id: str, size: int, format: str) -> None:
        """Recreate an unused volume with as much of its data as fits, and without checkpoints."""
        with self._lock:
            self._free_volume(volume_id)
            content = self._folder / "volumes" / f"{volume_id}.content"
            self.copy_content(volume_id, content)
            os.truncate(content, min(size, content.stat().st_size))
            try:
                self.delete_volume(volume_id)
                self.create_volume(volume_id, size, format, content=content)
            finally:
                content.unlink()

    def copy_content(self, volume_id: str, target: Path) -> None:
        """Copy the data that the guest sees now to the new sparse raw file `target`."""
        with self._lock:
            volume = self.volume(volume_id)
            vm = self._vm_of(volume)
            if vm is not None:
                source, source_format = vm.guest_url(volume), "raw"
            elif volume_id in self._served:
                source, source_format = self._served[volume_id].url, "raw"
            else:
                source, source_format = str(volume.path), volume.qemu_format
        # Copy without the lock, because other threads must not wait for a large disk.
        convert_to_raw(source, source_format, target)

    # VMs

    def start_vm(self, vm_id: str, volume_ids: Sequence[str]) -> None:
        with self._lock:
            if vm_id in self._vms:
                raise LabError(f"VM {vm_id} runs already")
            volumes = [self._free_volume(volume_id) for volume_id in volume_ids]
            socket = self._folder / "s" / f"m{next(self._numbers)}"
            self._vms[vm_id] = RunningVM(self._children, socket, volumes)

    def stop_vm(self, vm_id: str) -> None:
        """Shut the VM down. Its checkpoints stay; a running backup is lost, as on a real host."""
        with self._lock, ExitStack() as closing:
            closing.callback(self._vm(vm_id).close)
            del self._vms[vm_id]
            for backup in self._pop_live_backups(vm_id):
                closing.callback(backup.close)

    def crash_vm(self, vm_id: str) -> None:
        """Stop the VM like a power failure: its backups and the checkpoints of its volumes are lost."""
        with self._lock:
            self._vm(vm_id).crash()
            del self._vms[vm_id]
            for backup in self._pop_live_backups(vm_id):
                # qemu has lost its state; only files remain to remove.
                with contextlib.suppress(LabError):
                    backup.close()

    def is_running(self, vm_id: str) -> bool:
        return vm_id in self._vms

    def attach(self, vm_id: str, volume_id: str) -> None:
        """Plug a volume into a running VM."""
        with self._lock:
            self._vm(vm_id).attach(self._free_volume(volume_id))

    def detach(self, vm_id: str, volume_id: str) -> None:
        """Unplug a volume from a running VM. Raises LabError while a backup reads it."""
        with self._lock:
            volume = self._plugged(vm_id, volume_id)
            if self._is_backed_up(volume):
                raise LabError(f"volume {volume_id} is being backed up")
            self._vm(vm_id).detach(volume)

    def guest(self, vm_id: str, volume_id: str) -> Guest:
        """Open a disk like the guest of the running VM; the caller closes it."""
        with self._lock:
            return Guest(self._vm(vm_id).guest_url(self._plugged(vm_id, volume_id)))

    # Backups

    def begin_backup(
        self, vm_id: str | None, backup_id: str, volumes: Mapping[str, str | None], checkpoint_id: str | None
    ) -> None:
        """Start a backup of `volumes`; clients can read it until end_backup.

        `volumes` maps volume ids to the checkpoint to read incrementally from, or to None for a full. Those
        that can keep bitmaps get the checkpoint `checkpoint_id`, if it is not None. A VM that does not run,
        or None, means unused volumes.
        """
        with self._lock:
            if backup_id in self._backups:
                raise LabError(f"backup {backup_id} runs already")
            vm = self._vms.get(vm_id) if vm_id is not None else None
            disks = []
            for volume_id, since in volumes.items():
                volume = self._free_volume(volume_id) if vm is None else self._plugged(str(vm_id), volume_id)
                disks.append(self._plan(volume, since, checkpoint_id))
            name = f"b{next(self._numbers)}"
            if vm is None:
                self._backups[backup_id] = ColdBackup(self._children, name, self._folder / "s", disks)
            else:
                self._backups[backup_id] = LiveBackup(vm, name, self._folder / "scratch", disks)
                self._live[backup_id] = str(vm_id)
            for disk in disks:
                if disk.checkpoint is not None:
                    self._history[disk.volume.id].append(disk.checkpoint)

    def backup_export(self, backup_id: str, volume_id: str) -> str:
        """The NBD URL for a ticket."""
        with self._lock:
            try:
                return self._backups[backup_id].urls[volume_id]
            except KeyError:
                raise LabError(f"backup {backup_id} of volume {volume_id} not found") from None

    def end_backup(self, backup_id: str) -> None:
        """End a backup; its checkpoint stays."""
        with self._lock:
            if backup_id not in self._backups:
                raise LabError(f"backup {backup_id} not found")
            self._live.pop(backup_id, None)
            self._backups.pop(backup_id).close()

    # Checkpoints

    def checkpoints(self, volume_id: str) -> list[str]:
        """Return the checkpoints of a volume with usable bitmaps, oldest first."""
        with self._lock:
            volume = self.volume(volume_id)
            if not volume.keeps_bitmaps:
                return []
            vm = self._vm_of(volume)
            found = stored_bitmaps(volume) if vm is None else vm.bitmaps(volume)
            usable = [checkpoint for checkpoint in self._history[volume_id] if checkpoint in found]
            self._history[volume_id] = usable
            return list(usable)

    def delete_checkpoint(self, volume_ids: Sequence[str], checkpoint_id: str) -> None:
        """Delete a checkpoint; changes after it then count as changes after its parent.

        Volumes without the checkpoint are left alone. Refused while a VM that is down is backed up.
        """
        with self._lock:
            for volume_id in volume_ids:
                volume = self.volume(volume_id)
                history = self.checkpoints(volume_id)
                if checkpoint_id not in history:
                    continue
                at = history.index(checkpoint_id)
                parent = history[at - 1] if at > 0 else None
                active = at == len(history) - 1
                vm = self._vm_of(volume)
                if vm is not None:
                    vm.delete_bitmap(volume, checkpoint_id, parent=parent, active=active)
                else:
                    self._free_volume(volume_id)
                    if parent is not None:
                        enable = ["--enable"] if active else []
                        change_bitmap(volume, parent, [*enable, "--merge", checkpoint_id])
                    change_bitmap(volume, checkpoint_id, ["--remove"])
                self._history[volume_id].remove(checkpoint_id)

    # Plain image transfers

    def serve_volume(self, volume_id: str, *, read_only: bool, discard: bool = True) -> str:
        """Serve an unused volume until stop_serving, and return the NBD URL for a ticket.

        Zeroes that are written free the storage only with `discard`.
        """
        with self._lock:
            volume = self._free_volume(volume_id)
            socket = self._folder / "s" / f"n{next(self._numbers)}"
            server = ImageServer(self._children, volume, socket, read_only=read_only, discard=discard)
            self._served[volume_id] = server
            return server.url

    def stop_serving(self, volume_id: str) -> None:
        with self._lock:
            if volume_id not in self._served:
                raise LabError(f"volume {volume_id} is not served")
            self._served.pop(volume_id).close()

    # The imageio daemon

    @property
    def images_url(self) -> str:
        """The base of transfer URLs: append a slash and a ticket id."""
        return self._daemon.images_url

    def add_ticket(
        self,
        ticket_id: str,
        *,
        nbd_url: str,
        size: int,
        ops: Sequence[str],
        dirty: bool = False,
        sparse: bool = True,
        times: TicketTimes = _TICKET_TIMES,
        transfer_id: str | None = None,
    ) -> None:
        """Let clients of the daemon use an image until the ticket is removed. `ops` contains "read" or "write"."""
        ticket: dict[str, object] = {
            "uuid": ticket_id,
            "url": nbd_url,
            "size": size,
            "ops": list(ops),
            "dirty": dirty,
            "sparse": sparse,
            "timeout": times.timeout_s,
            "inactivity_timeout": times.inactivity_s,
        }
        if transfer_id is not None:
            ticket["transfer_id"] = transfer_id
        self._daemon.add_ticket(ticket)

    def ticket(self, ticket_id: str) -> dict[str, Any] | None:
        """Return the daemon's information about a ticket (transferred, idle_time, active…), None if missing."""
        return self._daemon.ticket(ticket_id)

    def renew_ticket(self, ticket_id: str, timeout_s: int) -> bool:
        """Let the daemon keep a ticket for `timeout_s` seconds more. Return False if it has no such ticket."""
        return self._daemon.renew_ticket(ticket_id, timeout_s)

    def remove_ticket(self, ticket_id: str) -> bool:
        """Remove a ticket. Return False while its operations still run: call it again then."""
        return self._daemon.remove_ticket(ticket_id)

    def restart_daemon(self) -> None:
        """Restart the imageio daemon on the same port, without tickets."""
        with self._lock:
            self._daemon.restart()

    def _plan(self, volume: HostVolume, since: str | None, checkpoint_id: str | None) -> HostBackupDisk:
        history = self.checkpoints(volume.id)
        if since is not None and since not in history:
            raise LabError(f"checkpoint {since} of volume {volume.id} not found")
        if checkpoint_id is not None and checkpoint_id in history:
            raise LabError(f"volume {volume.id} has a checkpoint {checkpoint_id} already")
        return HostBackupDisk(
            volume,
            changed=tuple(history[history.index(since) :]) if since is not None else None,
            active=history[-1] if history else None,
            checkpoint=checkpoint_id if volume.keeps_bitmaps else None,
        )

    def _vm(self, vm_id: str) -> RunningVM:
        try:
            return self._vms[vm_id]
        except KeyError:
            raise LabError(f"VM {vm_id} does not run") from None

    def _vm_of(self, volume: HostVolume) -> RunningVM | None:
        return next((vm for vm in self._vms.values() if vm.has(volume)), None)

    def _plugged(self, vm_id: str, volume_id: str) -> HostVolume:
        volume = self.volume(volume_id)
        if not self._vm(vm_id).has(volume):
            raise LabError(f"volume {volume_id} is not plugged into VM {vm_id}")
        return volume

    def _is_backed_up(self, volume: HostVolume) -> bool:
        return any(volume.id in backup.urls for backup in self._backups.values())

    def _pop_live_backups(self, vm_id: str) -> list[HostBackup]:
        ids = [backup_id for backup_id, owner in self._live.items() if owner == vm_id]
        for backup_id in ids:
            del self._live[backup_id]
        return [self._backups.pop(backup_id) for backup_id in ids]

    def _free_volume(self, volume_id: str) -> HostVolume:
        """Return an unused volume. With qemu, only one VM, or qemu-img, or servers can open an image."""
        volume = self.volume(volume_id)
        if self._vm_of(volume) is not None:
            raise LabError(f"volume {volume_id} belongs to a running VM")
        if volume_id in self._served:
            raise LabError(f"volume {volume_id} is being transferred")
        if self._is_backed_up(volume):
            raise LabError(f"volume {volume_id} is being backed up")
        return volume
