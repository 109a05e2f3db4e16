# SPDX-License-Identifier: GPL-2.0-or-later
"""Shut a VM down, as its own guest does."""

from __future__ import annotations

from pitr.errors import EngineBusy, EngineError
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.vms import get_vm
from pitr.ovirt.engine.wait import pauses

#: A guest with a database can need minutes.
SHUTDOWN_TIMEOUT_S = 900.0


def shut_down_vm(engine: Engine, vm_id: str, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
    """Ask the VM's guest to shut down, and wait until the VM is down; do nothing if it is down already.

    It never switches the VM off: data that the guest has not written would be lost. Raises NoSuchVM, EngineBusy,
    EngineError, also if the guest does not shut down within `timeout_s`.
    """
    vm = get_vm(engine, vm_id)
    if vm.status == "down":
        return
    try:
        engine.call(
            f"shutting down VM {vm.name!r}",
            lambda system: system.vms_service().vm_service(vm_id).shutdown(),
        )
    except EngineFault as fault:
        # The guest may have shut down by itself, or for a request whose answer was lost.
        if fault.status is not None and get_vm(engine, vm_id).status not in ("down", "powering_down"):
            raise EngineBusy(fault.message, fault.advice) if fault.busy else fault from fault
    status = vm.status
    for _ in pauses(timeout_s, engine.poll_interval_s):
        status = get_vm(engine, vm_id).status
        if status == "down":
            return
    raise EngineError(
        f"VM {vm.name!r} is not down {timeout_s:.0f} s after its guest was asked to shut down (it is {status})",
        "Shut the guest down yourself, then run the same command again.",
    )
