# SPDX-License-Identifier: GPL-2.0-or-later
"""Talking to the oVirt engine, through its SDK. No type of the SDK leaves this package."""

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
from pitr.engine.disks import Disk, attach_disk, create_disk, delete_disk, get_disk, vm_disks
from pitr.engine.leftovers import end_leftovers
from pitr.engine.started_backup import BackupDisk, StartedBackup
from pitr.engine.storage import StorageDomain, storage_domains
from pitr.engine.transfers import Transfer, start_download, start_upload
from pitr.engine.vms import VM, configuration, find_vm, list_vms, vms_with_tag

__all__ = [
    "BackupDisk",
    "Checkpoint",
    "Disk",
    "Engine",
    "EngineConfig",
    "RunningBackup",
    "StartedBackup",
    "StorageDomain",
    "Transfer",
    "VM",
    "attach_disk",
    "checkpoint_disk_ids",
    "configuration",
    "create_disk",
    "delete_checkpoint",
    "delete_disk",
    "end_leftovers",
    "find_vm",
    "get_checkpoint",
    "get_disk",
    "list_checkpoints",
    "list_vms",
    "load_config",
    "start_backup",
    "start_download",
    "start_upload",
    "storage_domains",
    "vm_disks",
    "vms_with_tag",
]
