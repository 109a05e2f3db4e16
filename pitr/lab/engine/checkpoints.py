# SPDX-License-Identifier: GPL-2.0-or-later
"""Delete or lose a VM's checkpoints, which are a chain from root to leaf."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.lab.engine import events
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.refusals import conflict
from pitr.lab.engine.state import VM, Backup, Checkpoint


def delete(installation: Installation, vm_id: str, checkpoint_id: str) -> None:
    """Delete a checkpoint of the chain. Raises Refusal: Missing, or 409 while a backup runs."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            vm = state.vm(vm_id)
            checkpoint = state.checkpoint(vm_id, checkpoint_id)
            if state.running_backup(vm_id) is not None:
                raise conflict("Cannot remove VM checkpoint. The VM is during a backup operation.")
            take_out(vm, checkpoint)
        remove_bitmaps(installation, [checkpoint])


def take_out(vm: VM, checkpoint: Checkpoint) -> None:
    """Remove a checkpoint from the VM's chain; its parent becomes the parent of its children."""
    vm.checkpoints.remove(checkpoint)
    for child in vm.checkpoints:
        if child.parent_id == checkpoint.id:
            child.parent_id = checkpoint.parent_id


def remove_bitmaps(installation: Installation, gone: Sequence[Checkpoint]) -> None:
    """Remove the data of deleted checkpoints from the host."""
    with installation.host_lock:
        for checkpoint in gone:
            with installation.state.lock:
                volumes = [disk_id for disk_id in checkpoint.disk_ids if disk_id in installation.state.disks]
            if volumes:
                installation.host.delete_checkpoint(volumes, checkpoint.id)


def forget_disk(installation: Installation, vm: VM, disk_id: str) -> None:
    """Remove a detached disk from the VM's checkpoints, and remove checkpoints without disks.

    The caller holds the host's lock.
    """
    with installation.state.lock:
        concerned = [checkpoint for checkpoint in vm.checkpoints if disk_id in checkpoint.disk_ids]
        for checkpoint in concerned:
            checkpoint.disk_ids.remove(disk_id)
            if not checkpoint.disk_ids:
                take_out(vm, checkpoint)
        exists = disk_id in installation.state.disks
    if exists:
        for checkpoint in concerned:
            installation.host.delete_checkpoint([disk_id], checkpoint.id)


def lose_all(installation: Installation, vm: VM, *, backup: Backup | None = None) -> list[Checkpoint]:
    """Lose the VM's whole chain, like a host that cannot redefine it; only a full backup is possible then.

    `backup` is the backup that needed it. Returns what was lost: the caller removes its bitmaps.
    """
    with installation.state.lock:
        lost = list(vm.checkpoints)
        vm.checkpoints.clear()
        events.record(
            installation,
            events.FULL_BACKUP_NEEDED,
            f"Failed to redefine checkpoints for VM {vm.name}. Full backup is now needed.",
            subject_id=vm.id if backup is None else backup.id,
            vm_id=vm.id,
            correlation_id=None if backup is None else backup.correlation_id,
        )
    return lost
