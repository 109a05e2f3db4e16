# SPDX-License-Identifier: GPL-2.0-or-later
"""Create VMs from saved configurations, start them, and remove them after a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovirtsdk4 import types

from pitr.errors import EngineBusy, EngineError, NoSuchVM, UsageError
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.deleting import delete_until_gone
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import required
from pitr.ovirt.engine.vms import VM, find_vm, get_vm
from pitr.ovirt.engine.wait import pauses

_STARTED = frozenset({"up", "powering_up", "reboot_in_progress"})


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of the engine. `data_center_id` is None if the engine does not tell it."""

    id: str
    name: str
    data_center_id: str | None = None


def list_clusters(engine: Engine) -> list[Cluster]:
    """Return all clusters that the user may see, by name. Raises EngineError."""
    answer = engine.call("listing clusters", lambda system: system.clusters_service().list())
    clusters = (
        Cluster(
            required(cluster.id, "a cluster's id"),
            required(cluster.name, "a cluster's name"),
            cluster.data_center.id if cluster.data_center is not None else None,
        )
        for cluster in answer
    )
    return sorted(clusters, key=lambda cluster: (cluster.name, cluster.id))


def vm_with_name(engine: Engine, name: str) -> VM | None:
    """Return the VM with this name or id, None if there is none.

    Raises UsageError if several VMs have the name, EngineError.
    """
    try:
        return find_vm(engine, name)
    except NoSuchVM:
        return None


def create_vm(
    engine: Engine,
    configuration: str,
    *,
    name: str,
    cluster_id: str,
    regenerate_ids: bool,
    timeout_s: float = 600.0,
) -> VM:
    """Create a VM from an OVF document and return it when it is down. Remove it after a failure.

    With `regenerate_ids` the VM and its devices get new ids; otherwise they keep the ids in the document. Raises
    UsageError if a VM has the name already, EngineBusy, EngineError.
    """
    if vm_with_name(engine, name) is not None:
        # Check first, because after a lost answer pitr takes the VM with this name for the new one.
        raise UsageError(f"the engine has a VM {name!r} already", "Choose another name.")
    new = types.Vm(
        name=name,
        cluster=types.Cluster(id=cluster_id),
        initialization=types.Initialization(
            regenerate_ids=regenerate_ids,
            configuration=types.Configuration(type=types.ConfigurationType.OVF, data=configuration),
        ),
    )
    try:
        vm_id = _post(engine, new, name)
        return _wait_until_down(engine, vm_id, timeout_s)
    except BaseException as error:
        if isinstance(error, EngineFault) and not error.transient:
            # The engine refused: a VM with this name is not ours.
            raise
        try:
            vm = vm_with_name(engine, name)
            if vm is not None:
                delete_vm(engine, vm.id)
        except EngineError as problem:
            error.add_note(f"cannot remove the new VM {name!r}: {problem}")
        raise


def delete_vm(engine: Engine, vm_id: str, timeout_s: float = 300.0) -> None:
    """Delete a VM that is down, but not its disks; do nothing if it does not exist. Raises EngineError."""

    def exists() -> bool:
        try:
            get_vm(engine, vm_id)
        except NoSuchVM:
            return False
        return True

    delete_until_gone(
        engine,
        f"VM {vm_id}",
        lambda system: _service(system, vm_id).remove(detach_only=True),
        exists,
        timeout_s,
    )


def start_vm(engine: Engine, vm_id: str, timeout_s: float = 300.0) -> None:
    """Start the VM and wait until it runs. Raises EngineError when it does not start, EngineBusy."""
    try:
        engine.call(f"starting VM {vm_id}", lambda system: _service(system, vm_id).start(), idempotent=False)
    except EngineFault as fault:
        if not fault.transient and not get_vm(engine, vm_id).running:
            raise EngineBusy(fault.message, fault.advice) if fault.busy else fault from fault
    status = "unknown"
    seen_running = False
    for _ in pauses(timeout_s, engine.poll_interval_s):
        status = get_vm(engine, vm_id).status
        if status in _STARTED:
            return
        if status == "down" and seen_running:
            break
        seen_running = seen_running or status != "down"
    raise EngineError(f"VM {vm_id} does not start (it is {status})", "Check the engine's events.")


def _post(engine: Engine, new: Any, name: str) -> str:
    try:
        created = engine.call(
            f"creating VM {name!r}", lambda system: system.vms_service().add(new), idempotent=False
        )
        return required(created.id, "the new VM's id")
    except EngineFault as fault:
        # The answer may be lost: check whether a VM with this name exists.
        vm = vm_with_name(engine, name) if fault.transient else None
        if vm is None:
            raise
        return vm.id


def _wait_until_down(engine: Engine, vm_id: str, timeout_s: float) -> VM:
    status = "unknown"
    for _ in pauses(timeout_s, engine.poll_interval_s):
        vm = get_vm(engine, vm_id)
        status = vm.status
        if status == "down":
            return vm
    raise EngineError(f"the new VM {vm_id} is still {status} after {timeout_s:.0f} s")


def _service(system: Any, vm_id: str) -> Any:
    return system.vms_service().vm_service(vm_id)
