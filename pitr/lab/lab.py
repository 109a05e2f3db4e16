# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole local oVirt: an engine, a host, and VMs that a test can fill and run."""

from __future__ import annotations

import configparser
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from pitr.lab.engine import disks, vms
from pitr.lab.engine.clock import Clock
from pitr.lab.engine.simulator import Simulator
from pitr.lab.engine.state import BLANK_TEMPLATE, Attachment, Disk, StorageDomain, new_id, new_mac
from pitr.lab.folder import lab_folder
from pitr.lab.host.guest import Guest
from pitr.lab.host.host import Host

USERNAME = "admin@internal"


class DiskOptions(TypedDict, total=False):
    """The options of `Lab.add_disk` that `LabVM.add_disk` passes on."""

    format: str
    sparse: bool
    content: Path | None
    incremental: bool


class Lab:
    """A local oVirt; a context manager. All its files are in one folder.

    `folder` must exist and be short (unix sockets are in it); without one a temporary folder is used. With
    `unix_socket=False` clients on this machine have to use TLS. Raises ProgramMissing and LabError.
    """

    def __init__(
        self, folder: Path | None = None, *, phase_lag_s: float = 0.05, unix_socket: bool = True
    ) -> None:
        self._folder = folder
        self._phase_lag_s = phase_lag_s
        self._unix_socket = unix_socket
        self._closing = ExitStack()
        self.clock = Clock()
        self.username = USERNAME
        self.password = secrets.token_urlsafe(12)
        self.storage_domain = "data"

    def __enter__(self) -> Self:
        with ExitStack() as closing:
            folder = closing.enter_context(lab_folder(self._folder, close=self.close))
            self.password_file = folder / "password"
            self.password_file.touch(mode=0o600)
            self.password_file.write_text(f"{self.password}\n")
            self.host = closing.enter_context(Host(folder, unix_socket=self._unix_socket))
            self.cafile = self.host.cafile
            self.engine = closing.enter_context(
                Simulator(
                    self.host,
                    self.clock,
                    username=self.username,
                    password=self.password,
                    phase_lag_s=self._phase_lag_s,
                )
            )
            self.engine_url = self.engine.url
            self.add_storage_domain(self.storage_domain)
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def close(self) -> None:
        """Stop everything, like leaving the context. Can be called again."""
        self._closing.close()

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which `pitr` finds this engine."""
        return {
            "PITR_ENGINE_URL": self.engine_url,
            "PITR_USERNAME": self.username,
            "PITR_PASSWORD_FILE": str(self.password_file),
            "PITR_CAFILE": str(self.cafile),
        }

    def write_ovirt_img_config(self, path: Path, section: str = "lab") -> None:
        """Write an `ovirt-img.conf` with a section for this engine. Only the owner can read it."""
        config = configparser.ConfigParser(interpolation=None)
        config[section] = {
            "engine_url": self.engine_url,
            "username": self.username,
            "password": self.password,
            "cafile": str(self.cafile),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("w") as file:
            config.write(file)

    def add_storage_domain(
        self, name: str, *, storage_type: str = "nfs", active: bool = True
    ) -> StorageDomain:
        """Add a data domain; `storage_type` "iscsi" or "fcp" is block storage."""
        return self.engine.add_storage_domain(name, storage_type=storage_type, active=active)

    def add_vm(
        self,
        name: str,
        *,
        compat: str = "4.6",
        description: str = "",
        storage_domain: str | None = None,
        tags: Sequence[str] = (),
        nics: Sequence[str] = (),
        template_id: str | None = None,
        thin: bool = True,
    ) -> LabVM:
        """Add a VM, down, without disks; its disks go to `storage_domain`; `nics` are names.

        With `template_id` the engine says that the VM comes from this template; a VM that is not `thin` has copies of
        the template's disks, and does not depend on it.

        Compatibility below 4.7 is backed up live or cold, from 4.7 on from a snapshot.
        """
        vm = vms.add(self.engine.installation, name, compat=compat, description=description)
        with self.engine.state.lock:
            vm.tags.extend(tags)
            vm.nics.update((nic, new_mac()) for nic in nics)
            if template_id is not None:
                vm.original_template_id = template_id
                vm.template_id = template_id if thin else BLANK_TEMPLATE
        return LabVM(self, vm.id, name, storage_domain or self.storage_domain)

    def add_disk(
        self,
        name: str,
        size: int,
        *,
        format: str = "cow",
        sparse: bool = True,
        content: Path | None = None,
        incremental: bool = True,
        storage_domain: str | None = None,
        shareable: bool = False,
    ) -> LabDisk:
        """Add a disk that belongs to no VM. `size` in bytes; `content`: a raw image with its first bytes."""
        domain = disks.storage_domain_named(self.engine.installation, storage_domain or self.storage_domain)
        disk = Disk(
            id=new_id(),
            name=name,
            size=size,
            format=format,
            sparse=sparse,
            incremental=incremental and format == "cow",
            storage_domain_id=domain.id,
            status="ok",
            has_volume=True,
            shareable=shareable,
        )
        with self.engine.installation.host_lock:
            self.host.create_volume(disk.id, size, format, content=content, sparse=sparse)
        with self.engine.state.lock:
            self.engine.state.disks[disk.id] = disk
        return LabDisk(self, disk)

    def add_lun(self, name: str, size: int) -> LabDisk:
        """Add a disk that is a LUN. It has no image, so pitr cannot back it up."""
        disk = Disk(
            id=new_id(),
            name=name,
            size=size,
            format="raw",
            sparse=False,
            incremental=False,
            storage_domain_id="",
            status="ok",
            storage_type="lun",
        )
        with self.engine.state.lock:
            self.engine.state.disks[disk.id] = disk
        return LabDisk(self, disk)

    def vm(self, name_or_id: str) -> LabVM:
        """Return any VM on the engine, also one that a restore created. Raises LookupError."""
        with self.engine.state.lock:
            for vm in self.engine.state.vms.values():
                if name_or_id in {vm.id, vm.name}:
                    return LabVM(self, vm.id, vm.name, self.storage_domain)
        raise LookupError(f"VM {name_or_id} not found")

    def disk(self, disk_id: str) -> LabDisk:
        """Return any disk on the engine, also one that a restore created. Raises LookupError."""
        with self.engine.state.lock:
            if disk_id not in self.engine.state.disks:
                raise LookupError(f"disk {disk_id} not found")
            return LabDisk(self, self.engine.state.disks[disk_id])

    @property
    def disks(self) -> list[LabDisk]:
        """All disks on the engine, without the scratch disks of backups."""
        with self.engine.state.lock:
            known = self.engine.state.disks.values()
            return [LabDisk(self, disk) for disk in known if disk.content_type != "backup_scratch"]

    def transferred(self, disk_id: str) -> int:
        """Return the number of bytes that the imageio daemon counted in all finished transfers of a disk."""
        with self.engine.state.lock:
            transfers = self.engine.state.transfers.values()
            return sum(transfer.transferred for transfer in transfers if transfer.disk_id == disk_id)

    def open_transfers(self) -> list[str]:
        """The ids of the transfers that have not ended."""
        with self.engine.state.lock:
            return [transfer.id for transfer in self.engine.state.active_transfers()]

    def open_backups(self) -> list[str]:
        """The ids of the backups that have not ended."""
        with self.engine.state.lock:
            return [backup.id for backup in self.engine.state.backups.values() if not backup.ended]

    def locked_disks(self) -> list[str]:
        """The ids of the disks that are locked."""
        with self.engine.state.lock:
            return [disk.id for disk in self.engine.state.disks.values() if disk.status == "locked"]


class LabVM:
    """One VM of the lab."""

    def __init__(self, lab: Lab, vm_id: str, name: str, storage_domain: str) -> None:
        self.lab = lab
        self.id = vm_id
        self.name = name
        self._storage_domain = storage_domain

    @property
    def running(self) -> bool:
        return self.lab.host.is_running(self.id)

    @property
    def disks(self) -> list[LabDisk]:
        """The VM's disks in the order in which they were attached."""
        with self.lab.engine.state.lock:
            attached = list(self.lab.engine.state.vm(self.id).attachments)
            return [self.lab.disk(disk_id) for disk_id in attached]

    @property
    def checkpoints(self) -> list[str]:
        """The ids of the VM's checkpoints, root to leaf."""
        with self.lab.engine.state.lock:
            return [checkpoint.id for checkpoint in self.lab.engine.state.vm(self.id).checkpoints]

    @property
    def nics(self) -> dict[str, str]:
        """The MAC addresses of the VM's network interfaces, by name."""
        with self.lab.engine.state.lock:
            return dict(self.lab.engine.state.vm(self.id).nics)

    def remove(self) -> None:
        """Remove the VM, which is down, with all its disks."""
        vms.remove(self.lab.engine.installation, self.id, detach_only=False)

    def start(self) -> None:
        """Start the VM. Raises LabError if it cannot start now."""
        vms.start(self.lab.engine.installation, self.id)

    def stop(self) -> None:
        """Stop the VM. A live backup that is ready fails. Raises LabError while a backup starts or ends."""
        vms.stop(self.lab.engine.installation, self.id)

    def crash(self) -> None:
        """Stop the VM like a power failure: the bitmaps of its disks are lost, but the engine still lists them."""
        vms.crash(self.lab.engine.installation, self.id)

    def add_disk(
        self, name: str, size: int, *, bootable: bool = False, **options: Unpack[DiskOptions]
    ) -> LabDisk:
        """Add a disk of `size` bytes and attach it; a running VM can use it at once."""
        disk = self.lab.add_disk(name, size, storage_domain=self._storage_domain, **options)
        self.attach(disk, bootable=bootable)
        return disk

    def attach(self, disk: LabDisk, *, bootable: bool = False) -> None:
        vms.attach(self.lab.engine.installation, self.id, Attachment(disk.id, bootable=bootable))

    def detach(self, disk: LabDisk) -> None:
        """Detach a disk, which also removes it from the VM's checkpoints."""
        vms.detach(self.lab.engine.installation, self.id, disk.id)


class LabDisk:
    """One disk of the lab; `size` in bytes, `format` "cow" or "raw"."""

    def __init__(self, lab: Lab, disk: Disk) -> None:
        self.lab = lab
        self.id = disk.id
        self.name = disk.name
        self.size = disk.size
        self.format = disk.format

    @property
    def image(self) -> Path:
        """The image file. Only read it while no VM and no transfer uses it."""
        return self.lab.host.volume(self.id).path

    @property
    def status(self) -> str:
        """The current status on the engine. Raises Refusal if the disk no longer exists."""
        with self.lab.engine.state.lock:
            return self.lab.engine.state.disk(self.id).status

    @property
    def legal(self) -> bool:
        """Whether the host marks its volume as legal, which it does not while an upload is open."""
        with self.lab.engine.state.lock:
            return self.lab.engine.state.disk(self.id).volume_legal

    @property
    def bootable(self) -> bool:
        return self._attachment().bootable

    @property
    def interface(self) -> str:
        return self._attachment().interface

    def _attachment(self) -> Attachment:
        with self.lab.engine.state.lock:
            for vm in self.lab.engine.state.vms_of(self.id):
                return vm.attachments[self.id]
        raise LookupError(f"disk {self.id} is attached to no VM")

    def delete(self) -> None:
        """Delete the disk, even if it is attached to VMs."""
        disks.delete(self.lab.engine.installation, self.id)

    def rename(self, name: str) -> None:
        self.name = name
        with self.lab.engine.state.lock:
            self.lab.engine.state.disk(self.id).name = name

    def move(self, storage_domain: str) -> None:
        """Move the disk to another storage domain, as far as the engine's clients can tell."""
        domain = disks.storage_domain_named(self.lab.engine.installation, storage_domain)
        with self.lab.engine.state.lock:
            self.lab.engine.state.disk(self.id).storage_domain_id = domain.id

    def grow(self, size: int) -> None:
        """Make the disk larger; its checkpoints stay."""
        disks.grow(self.lab.engine.installation, self.id, size)
        self.size = size

    def replace(self, size: int, format: str) -> None:
        """Change the size or format of an unused disk, like restoring a snapshot or converting the disk.

        It keeps the data that fits, and removes the disk from its VM's checkpoints.
        """
        disks.replace(self.lab.engine.installation, self.id, size, format)
        self.size, self.format = size, format

    def guest(self) -> Guest:
        """Open the disk like the guest of its running VM; the caller closes it. Raises LabError if no VM runs."""
        with self.lab.engine.state.lock:
            owners = self.lab.engine.state.vms_of(self.id)
            running = [vm.id for vm in owners if vm.running]
            vm_id = (running or [vm.id for vm in owners] or [""])[0]
        return self.lab.host.guest(vm_id, self.id)

    def copy_content(self, path: Path) -> None:
        """Copy the disk's exact bytes to the new sparse raw file `path`, for comparisons in tests."""
        self.lab.host.copy_content(self.id, path)
