# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to the oVirt engine through its SDK. No SDK type leaves this package."""

from pitr.ovirt.engine.attached_transfers import AttachedTransfer, find_transfer
from pitr.ovirt.engine.attachments import detach_disk, rename_attached_disk
from pitr.ovirt.engine.backups import BackupRequest, RunningBackup, start_backup
from pitr.ovirt.engine.checkpoints import (
    Checkpoint,
    checkpoint_disk_ids,
    delete_checkpoint,
    get_checkpoint,
    list_checkpoints,
)
from pitr.ovirt.engine.config import (
    EngineConfig,
    EngineSettings,
    is_configured_engine,
    load_config,
    secret_files,
)
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disk_copies import copy_disk, disks_named_like, disks_with_alias
from pitr.ovirt.engine.disks import (
    AttachmentOptions,
    Disk,
    NewDisk,
    attach_disk,
    create_disk,
    delete_disk,
    disk_exists,
    get_disk,
    vm_disks,
)
from pitr.ovirt.engine.events import reported_problems
from pitr.ovirt.engine.hosts import cluster_of_host, host_names, this_host
from pitr.ovirt.engine.in_place import InPlaceUpload, open_uploads, start_in_place
from pitr.ovirt.engine.leftovers import end_leftovers, is_left_over, leftover_checkpoint
from pitr.ovirt.engine.naming import is_alias, valid_alias, why_not_vm_name
from pitr.ovirt.engine.networks import cluster_networks, used_addresses
from pitr.ovirt.engine.new_vms import Cluster, create_vm, delete_vm, list_clusters, start_vm, vm_with_name
from pitr.ovirt.engine.shutting_down import shut_down_vm
from pitr.ovirt.engine.snapshots import backup_snapshots
from pitr.ovirt.engine.started_backup import BackupDisk, StartedBackup
from pitr.ovirt.engine.storage import (
    StorageDomain,
    active_data_domains,
    disk_profile_name,
    disk_profiles,
    list_storage_domains,
)
from pitr.ovirt.engine.templates import vms_of_templates
from pitr.ovirt.engine.transfers import Transfer, start_download, start_upload
from pitr.ovirt.engine.vms import VM, find_vm, get_configuration, get_vm, list_vms, vms_with_tag

__all__ = [
    "cluster_of_host",
    "host_names",
    "this_host",
    "AttachedTransfer",
    "AttachmentOptions",
    "disk_profile_name",
    "disk_profiles",
    "BackupDisk",
    "Checkpoint",
    "Cluster",
    "Disk",
    "Engine",
    "EngineConfig",
    "EngineSettings",
    "InPlaceUpload",
    "NewDisk",
    "BackupRequest",
    "RunningBackup",
    "StartedBackup",
    "StorageDomain",
    "Transfer",
    "VM",
    "active_data_domains",
    "attach_disk",
    "backup_snapshots",
    "checkpoint_disk_ids",
    "cluster_networks",
    "is_alias",
    "used_addresses",
    "valid_alias",
    "why_not_vm_name",
    "list_clusters",
    "copy_disk",
    "disks_named_like",
    "disks_with_alias",
    "get_configuration",
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
    "is_configured_engine",
    "is_left_over",
    "leftover_checkpoint",
    "list_checkpoints",
    "list_vms",
    "load_config",
    "secret_files",
    "open_uploads",
    "rename_attached_disk",
    "reported_problems",
    "shut_down_vm",
    "start_backup",
    "start_download",
    "start_in_place",
    "start_upload",
    "start_vm",
    "list_storage_domains",
    "vm_disks",
    "vm_with_name",
    "vms_of_templates",
    "vms_with_tag",
]
