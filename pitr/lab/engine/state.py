# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's entities and how to find them. One lock guards them all."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pitr.lab.engine.refusals import Missing

Entity = TypeVar("Entity")

BACKUP_ENDED = frozenset({"succeeded", "failed"})
TRANSFER_ENDED = frozenset({"finished_success", "finished_failure"})
#: The template of VMs that were made from none.
BLANK_TEMPLATE = "00000000-0000-0000-0000-000000000000"
BLOCK_STORAGE = frozenset({"iscsi", "fcp"})


def new_id() -> str:
    return str(uuid.uuid4())


def new_mac() -> str:
    return "56:6f" + "".join(f":{byte:02x}" for byte in uuid.uuid4().bytes[:4])


@dataclass(slots=True)
class StorageDomain:
    name: str
    storage_type: str = "nfs"
    active: bool = True
    available: int = 1 << 42
    #: None for the data center that all clusters are in.
    data_center_id: str | None = None
    id: str = field(default_factory=new_id)
    #: The names of the disk profiles by id. The first is the default of the domain.
    profiles: dict[str, str] = field(default_factory=dict)

    @property
    def is_block(self) -> bool:
        return self.storage_type in BLOCK_STORAGE


@dataclass(slots=True)
class Disk:
    """A disk; `size` is the engine's size in bytes. The volume on the host can be a little larger."""

    id: str
    name: str
    size: int
    format: str
    sparse: bool
    incremental: bool
    storage_domain_id: str
    status: str = "locked"
    description: str = ""
    content_type: str = "data"
    shareable: bool = False
    initial_size: int | None = None
    storage_type: str = "image"
    wipe_after_delete: bool = False
    propagate_errors: bool = False
    profile_id: str | None = None
    image_id: str = field(default_factory=new_id)
    has_volume: bool = False
    #: Whether the host marks the volume as legal. It does not while an upload is open.
    volume_legal: bool = True


@dataclass(slots=True)
class Attachment:
    disk_id: str
    bootable: bool = False
    interface: str = "virtio_scsi"
    active: bool = True
    read_only: bool = False
    pass_discard: bool = False
    uses_scsi_reservation: bool = False


@dataclass(slots=True)
class Checkpoint:
    id: str
    vm_id: str
    parent_id: str | None
    created: datetime
    disk_ids: list[str]
    description: str = ""
    state: str = "created"


@dataclass(slots=True)
class VM:
    """A VM; `compat` is its compatibility version, `checkpoints` go from root to leaf, `nics` are names and MACs."""

    id: str
    name: str
    created: datetime
    compat: str = "4.6"
    description: str = ""
    memory: int = 1 << 30
    status: str = "down"
    os: str = "other_linux"
    #: The network of all its interfaces.
    network: str = "ovirtmgmt"
    previewing: bool = False
    freeze_fails: bool = False
    ignores_shutdown: bool = False
    chain_breaks: bool = False
    origin: str = "ovirt"
    template_id: str = BLANK_TEMPLATE
    original_template_id: str = BLANK_TEMPLATE
    tags: list[str] = field(default_factory=list)
    nics: dict[str, str] = field(default_factory=dict)
    snapshots_left: list[str] = field(default_factory=list)
    attachments: dict[str, Attachment] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.status != "down"


@dataclass(slots=True)
class Backup:
    """A backup; `disks` maps each disk to its base checkpoint, None for a full backup.

    `lost_bitmaps` are the disks whose changes the host cannot list, although the engine calls them incremental.
    """

    id: str
    vm_id: str
    mode: str
    disks: dict[str, str | None]
    created: datetime
    modified: datetime
    description: str = ""
    from_checkpoint_id: str | None = None
    to_checkpoint_id: str | None = None
    snapshot_id: str | None = None
    require_consistency: bool = False
    correlation_id: str | None = None
    phase: str = "initializing"
    history: list[str] = field(default_factory=lambda: ["initializing"])
    finalize_asked: bool = False
    abort_asked: bool = False
    scratch_ids: list[str] = field(default_factory=list)
    lost_bitmaps: set[str] = field(default_factory=set)
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.phase in BACKUP_ENDED


@dataclass(slots=True)
class Transfer:
    """An image transfer; `asked` is the client's request: finalize, cancel, pause or resume.

    A paused transfer keeps its ticket, but the daemon can lose it.
    """

    id: str
    disk_id: str
    direction: str
    format: str
    backup_id: str | None
    inactivity_timeout_s: int
    timeout_policy: str
    shallow: bool = False
    phase: str = "initializing"
    history: list[str] = field(default_factory=lambda: ["initializing"])
    ticket_id: str | None = None
    transferred: int = 0
    active: bool = False
    asked: str | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.phase in TRANSFER_ENDED


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    code: int
    severity: str
    description: str
    time: datetime
    correlation_id: str | None
    vm_id: str | None
    subject_id: str


@dataclass(slots=True)
class Job:
    id: str
    description: str
    started: datetime
    correlation_id: str
    status: str = "started"
    ended: datetime | None = None


class State:
    """All entities. Hold `lock` to read or change them; notify it after a change that other threads wait for.

    Ended backups and transfers vanish `keep_success_s` or `keep_failure_s` seconds after their end.
    """

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.keep_success_s = 15 * 60.0
        self.keep_failure_s = 30 * 60.0
        self.cluster_id = new_id()
        self.data_center_id = new_id()
        self.host_id = new_id()
        #: The names of the cluster's networks. Each has a vNIC profile of the same name.
        self.networks = ["ovirtmgmt"]
        self.storage_domains: dict[str, StorageDomain] = {}
        self.vms: dict[str, VM] = {}
        self.disks: dict[str, Disk] = {}
        self.backups: dict[str, Backup] = {}
        self.transfers: dict[str, Transfer] = {}
        self.events: list[Event] = []
        self.jobs: list[Job] = []

    def vm(self, vm_id: str) -> VM:
        return _found(self.vms, vm_id, "VM")

    def disk(self, disk_id: str) -> Disk:
        return _found(self.disks, disk_id, "disk")

    def storage_domain(self, domain_id: str) -> StorageDomain:
        return _found(self.storage_domains, domain_id, "storage domain")

    def backup(self, vm_id: str, backup_id: str) -> Backup:
        self.forget_old()
        backup = _found(self.backups, backup_id, "backup")
        if backup.vm_id != vm_id:
            raise Missing("backup", backup_id)
        return backup

    def transfer(self, transfer_id: str) -> Transfer:
        self.forget_old()
        return _found(self.transfers, transfer_id, "transfer")

    def checkpoint(self, vm_id: str, checkpoint_id: str) -> Checkpoint:
        for checkpoint in self.vm(vm_id).checkpoints:
            if checkpoint.id == checkpoint_id:
                return checkpoint
        raise Missing("checkpoint", checkpoint_id)

    def vms_of(self, disk_id: str) -> list[VM]:
        """Return the VMs that the disk is attached to."""
        return [vm for vm in self.vms.values() if disk_id in vm.attachments]

    def running_backup(self, vm_id: str) -> Backup | None:
        for backup in self.backups.values():
            if backup.vm_id == vm_id and not backup.ended:
                return backup
        return None

    def active_transfers(self, *, backup_id: str | None = None, disk_id: str | None = None) -> list[Transfer]:
        return [
            transfer
            for transfer in self.transfers.values()
            if not transfer.ended
            and (backup_id is None or transfer.backup_id == backup_id)
            and (disk_id is None or transfer.disk_id == disk_id)
        ]

    def forget_old(self) -> None:
        """Remove backups and transfers that ended long enough ago."""
        now = time.monotonic()

        def is_kept(ended_at: float | None, failed: bool) -> bool:
            keep_s = self.keep_failure_s if failed else self.keep_success_s
            return ended_at is None or now - ended_at < keep_s

        backups, transfers = self.backups.items(), self.transfers.items()
        self.backups = {key: each for key, each in backups if is_kept(each.ended_at, each.phase == "failed")}
        self.transfers = {
            key: each for key, each in transfers if is_kept(each.ended_at, each.phase == "finished_failure")
        }


def _found(table: dict[str, Entity], key: str, what: str) -> Entity:
    try:
        return table[key]
    except KeyError:
        raise Missing(what, key) from None
