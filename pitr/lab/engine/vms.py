# SPDX-License-Identifier: GPL-2.0-or-later
"""Add, start and stop VMs; attach and detach disks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pitr.errors import LabError
from pitr.lab.engine import checkpoints, disks, events, ovf
from pitr.lab.engine.bodies import ChangedAttachment
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.refusals import (
    Missing,
    Refusal,
    bad_request,
    bad_vm_name,
    conflict,
    disks_locked,
    network_missing,
    vm_name_too_long,
)
from pitr.lab.engine.state import VM, Attachment, new_id, new_mac

#: The most seconds until a live backup fails after its VM stops.
BACKUP_FAILS_WITHIN_S = 30.0


#: Letters of any script are accepted, blanks are not.
_NAME = re.compile(r"[\w.+-]+")
_LONGEST_NAME = 255
_LONGEST_WINDOWS_NAME = 64


def check_name(name: str, action: str) -> None:
    """Raise Refusal (400) for a name that the engine does not accept for a new VM."""
    if not _NAME.fullmatch(name):
        raise bad_vm_name(action)
    if len(name) > _LONGEST_NAME:
        raise vm_name_too_long(action, _LONGEST_NAME)


def add(
    installation: Installation,
    name: str,
    *,
    vm_id: str | None = None,
    compat: str = "4.6",
    description: str = "",
    memory: int = 1 << 30,
) -> VM:
    """Add a VM that is down and has no disks. Raises Refusal (409) if the name or id exists already."""
    state = installation.state
    with state.lock:
        if any(vm.name == name for vm in state.vms.values()):
            raise conflict(
                "Cannot add VM. The VM name is already in use, please choose a unique name and try again."
            )
        if vm_id is not None and vm_id in state.vms:
            raise conflict("Cannot import VM. The VM ID is already in use.")
        vm = VM(
            id=vm_id or new_id(),
            name=name,
            created=installation.clock.now(),
            compat=compat,
            description=description,
            memory=memory,
        )
        state.vms[vm.id] = vm
        return vm


def add_from_ovf(installation: Installation, document: str, *, regenerate_ids: bool, name: str | None) -> VM:
    """Add a VM from its saved configuration. If possible, attach existing disks by the ids in it.

    A disk that cannot be attached is only an event. Raises Refusal: 400 on a bad document, 409 when taken.
    """
    try:
        configuration = ovf.read(document)
    except ValueError as error:
        raise bad_request(f"Cannot import VM. Invalid OVF configuration: {error}") from None
    check_name(name or configuration.name, "import")
    if configuration.os.startswith("windows") and len(name or configuration.name) > _LONGEST_WINDOWS_NAME:
        raise vm_name_too_long("import", _LONGEST_WINDOWS_NAME)
    missing = sorted(configuration.networks - {*installation.state.networks, ""})
    if missing:
        raise network_missing(missing)
    taken = {mac for other in installation.state.vms.values() for mac in other.nics.values()}
    if not regenerate_ids and taken.intersection(configuration.nics.values()):
        raise conflict("Cannot import VM. The MAC address of a network interface is already in use.")
    vm = add(
        installation,
        name or configuration.name,
        vm_id=None if regenerate_ids else configuration.vm_id,
        compat=configuration.compat,
        description=configuration.description,
        memory=configuration.memory,
    )
    with installation.state.lock:
        # A new VM gets new addresses; the pool also provides addresses that the document lacks.
        vm.nics = {
            nic: new_mac() if regenerate_ids or not mac else mac for nic, mac in configuration.nics.items()
        }
        if len(configuration.networks) == 1:
            (vm.network,) = configuration.networks
    for attachment in configuration.attachments:
        try:
            attach(installation, vm.id, attachment)
        except Refusal:
            events.record(
                installation,
                events.DISK_ATTACH_FAILED,
                f"Failed to attach disk {attachment.disk_id} to VM {vm.name}.",
                subject_id=vm.id,
                vm_id=vm.id,
            )
    return vm


def configuration(installation: Installation, vm: VM) -> str:
    """Return the VM's OVF document."""
    with installation.state.lock:
        return ovf.write(vm, [installation.state.disk(disk_id) for disk_id in vm.attachments])


def start(installation: Installation, vm_id: str) -> None:
    """Start the VM. Raises LabError if it runs or is busy."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            vm = state.vm(vm_id)
            if vm.running:
                raise LabError(f"VM {vm.name} runs already")
            if state.running_backup(vm_id) is not None:
                raise LabError(f"VM {vm.name} is being backed up")
            busy = [each for each in vm.attachments if state.active_transfers(disk_id=each)]
            if busy:
                raise LabError(f"disk {busy[0]} of VM {vm.name} is being transferred")
            plugged = [
                disk_id
                for disk_id, attachment in vm.attachments.items()
                if attachment.active and state.disk(disk_id).has_volume
            ]
            unusable = [each for each in plugged if not state.disk(each).volume_legal]
            if unusable:
                raise LabError(f"disk {unusable[0]} of VM {vm.name} is illegal")
        installation.host.start_vm(vm_id, plugged)
        with state.lock:
            vm.status = "up"


def start_asked(installation: Installation, vm_id: str) -> None:
    """Start the VM for a client. Raises Refusal (409) if it runs or is busy."""
    try:
        start(installation, vm_id)
    except LabError as error:
        raise conflict(f"Cannot run VM. {error.message}.") from None


def stop_asked(installation: Installation, vm_id: str) -> None:
    """Switch the VM off for a client, in the background. Raises Refusal (409) if it is down."""
    _start_to_stop(installation, vm_id, "stop")


def shutdown_asked(installation: Installation, vm_id: str) -> None:
    """Ask the guest to shut down, in the background; some guests do not. Raises Refusal (409) if the VM is down."""
    with installation.state.lock:
        ignored = installation.state.vm(vm_id).ignores_shutdown
    if not ignored:
        _start_to_stop(installation, vm_id, "shutdown")


def _start_to_stop(installation: Installation, vm_id: str, action: str) -> None:
    state = installation.state
    with state.lock:
        vm = state.vm(vm_id)
        if not vm.running:
            raise conflict(f"Cannot {action} VM. VM is not running.")
        vm.status = "powering_down"

    def work() -> None:
        installation.lag()
        try:
            stop(installation, vm_id)
        except LabError:
            # A backup starts or ends: the VM goes on.
            with state.lock:
                vm.status = "up" if vm.running else vm.status

    installation.workers.start(f"{action} {vm.name}", work)


#: What a client can ask of a VM.
ACTIONS: Mapping[str, Callable[[Installation, str], None]] = {
    "start": start_asked,
    "shutdown": shutdown_asked,
    "stop": stop_asked,
}


def remove(installation: Installation, vm_id: str, *, detach_only: bool) -> None:
    """Remove a VM that is down, and its disks unless `detach_only`. Raises Refusal."""
    state = installation.state
    with state.lock:
        vm = state.vm(vm_id)
        if vm.running:
            raise conflict("Cannot remove VM. VM is running.")
        attached = list(vm.attachments)
    for disk_id in attached:
        detach(installation, vm_id, disk_id, delete=not detach_only)
    with state.lock:
        del state.vms[vm_id]


def stop(installation: Installation, vm_id: str) -> None:
    """Stop the VM; its live backup fails first. Raises LabError if it is down or a backup starts."""
    state = installation.state
    with state.lock:
        vm = state.vm(vm_id)
        if not vm.running:
            raise LabError(f"VM {vm.name} is down already")
        backup = state.running_backup(vm_id)
        if backup is not None:
            if backup.phase != "ready":
                raise LabError(f"VM {vm.name} has a backup that is {backup.phase}")
            backup.abort_asked = True
            state.lock.notify_all()
            if not state.lock.wait_for(lambda: backup.ended, timeout=BACKUP_FAILS_WITHIN_S):
                raise LabError(f"the backup of VM {vm.name} does not end")
    with installation.host_lock:
        installation.host.stop_vm(vm_id)
        with state.lock:
            vm.status = "down"


def crash(installation: Installation, vm_id: str) -> None:
    """Stop the VM like a power failure of its host: its bitmaps are lost, and a running backup fails."""
    state = installation.state
    with installation.host_lock:
        installation.host.crash_vm(vm_id)
        with state.lock:
            vm = state.vm(vm_id)
            vm.status = "down"
            backup = state.running_backup(vm_id)
            if backup is not None:
                backup.abort_asked = True
            state.lock.notify_all()


def attach(installation: Installation, vm_id: str, attachment: Attachment) -> None:
    """Attach a disk; a running VM can use an active disk at once. Raises Refusal."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            vm = state.vm(vm_id)
            disk = state.disk(attachment.disk_id)
            others = [other.name for other in state.vms_of(disk.id)]
            if others and not (disk.shareable and vm.name not in others):
                raise conflict(
                    f"Cannot attach Virtual Disk. The disk {disk.name} is already attached to VM {others[0]}."
                )
            if disk.status == "locked":
                raise disks_locked("attach Virtual Disk", [disk.name])
            domain = state.storage_domains.get(disk.storage_domain_id)
            if domain is not None and domain.data_center_id is not None:
                raise conflict(
                    "Cannot attach Virtual Disk. The storage domain of the disk is in another data center."
                )
            if attachment.bootable and any(other.bootable for other in vm.attachments.values()):
                raise conflict(f"Cannot attach Virtual Disk. VM {vm.name} has a bootable disk already.")
            vm.attachments[disk.id] = attachment
            hot = vm.running and attachment.active and disk.has_volume
        if hot:
            installation.host.attach(vm_id, disk.id)


def change_attachment(
    installation: Installation, vm_id: str, disk_id: str, wanted: ChangedAttachment
) -> Attachment:
    """Change an attachment, or the name of its disk. Raises Refusal."""
    state = installation.state
    with state.lock:
        vm = state.vm(vm_id)
        if disk_id not in vm.attachments:
            raise Missing("disk attachment", disk_id)
        disk = state.disk(disk_id)
        if disk.status == "locked":
            raise disks_locked("edit Virtual Disk", [disk.name])
        attachment = vm.attachments[disk_id]
        if vm.running and (wanted.bootable is not None or wanted.interface is not None):
            raise conflict("Cannot edit Virtual Disk. The VM is not down.")
        if wanted.name is not None:
            disks.check_alias(wanted.name, "edit")
        disk.name = wanted.name or disk.name
        attachment.bootable = attachment.bootable if wanted.bootable is None else wanted.bootable
        attachment.interface = wanted.interface or attachment.interface
        return attachment


def detach(installation: Installation, vm_id: str, disk_id: str, *, delete: bool = False) -> None:
    """Detach a disk, which removes it from the VM's checkpoints; with `delete`, delete it too. Raises Refusal."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            vm = state.vm(vm_id)
            if disk_id not in vm.attachments:
                raise Missing("disk attachment", disk_id)
            disk = state.disk(disk_id)
            if state.running_backup(vm_id) is not None:
                raise conflict("Cannot detach Virtual Disk. The VM is during a backup operation.")
            if disk.status == "locked":
                raise disks_locked("detach Virtual Disk", [disk.name])
            if vm.running and delete:
                raise conflict("Cannot remove Virtual Disk. The VM is not down.")
            attachment = vm.attachments.pop(disk_id)
            hot = vm.running and attachment.active and disk.has_volume
        if hot:
            installation.host.detach(vm_id, disk_id)
        checkpoints.forget_disk(installation, vm, disk_id)
        if delete:
            disks.drop(installation, disk)
