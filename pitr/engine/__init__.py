# SPDX-License-Identifier: GPL-2.0-or-later
"""Talking to the oVirt engine, through its SDK. No type of the SDK leaves this package."""

from pitr.engine.attached_transfers import AttachedTransfer, find_transfer
from pitr.engine.attachments import detach_disk, rename_attached_disk
from pitr.engine.backups import RunningBackup, start_backup
from pitr.engine.checkpoints import (
    Checkpoint,
    checkpoint_disk_ids,
    delete_checkpoint,
    get_checkpoint,
    list_checkpoints,
)
from pitr.engine.config import EngineConfig, load_config
from pitr.engine.connection import Engine
from pitr.engine.disks import Disk, attach_disk, create_disk, delete_disk, disk_exists, get_disk, vm_disks
from pitr.engine.leftovers import end_leftovers, is_left_over, leftover_checkpoint
from pitr.engine.new_vms import Cluster, clusters, create_vm, delete_vm, start_vm, vm_with_name
from pitr.engine.snapshots import backup_snapshots
from pitr.engine.started_backup import BackupDisk, StartedBackup
from pitr.engine.storage import StorageDomain, storage_domains
from pitr.engine.transfers import Transfer, start_download, start_upload
from pitr.engine.vms import VM, configuration, find_vm, get_vm, list_vms, vms_with_tag

__all__ = [
    "AttachedTransfer",
    "BackupDisk",
    "Checkpoint",
    "Cluster",
    "Disk",
    "Engine",
    "EngineConfig",
    "RunningBackup",
    "StartedBackup",
    "StorageDomain",
    "Transfer",
    "VM",
    "attach_disk",
    "backup_snapshots",
    "checkpoint_disk_ids",
    "clusters",
    "configuration",
    "create_disk",
    "create_vm",
    "delete_checkpoint",
    "delete_disk",
    "delete_vm",
    "detach_disk",
    "disk_exists",
    "end_leftovers",
    "find_transfer",
    "find_vm",
    "get_checkpoint",
    "get_disk",
    "get_vm",
    "is_left_over",
    "leftover_checkpoint",
    "list_checkpoints",
    "list_vms",
    "load_config",
    "rename_attached_disk",
    "start_backup",
    "start_download",
    "start_upload",
    "start_vm",
    "storage_domains",
    "vm_disks",
    "vm_with_name",
    "vms_with_tag",
]
