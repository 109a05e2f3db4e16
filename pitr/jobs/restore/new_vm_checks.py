# SPDX-License-Identifier: GPL-2.0-or-later
"""Check what the engine would refuse or drop in a new VM, before any data flows."""

from __future__ import annotations

from pitr.errors import UsageError
from pitr.ovirt import ovf
from pitr.ovirt.engine import (
    Engine,
    cluster_networks,
    used_addresses,
    vm_disks,
    vm_with_name,
    why_not_vm_name,
)
from pitr.reporting import Notify
from pitr.text import printable


def check_name(engine: Engine, name: str, configuration: str) -> None:
    """Raise UsageError if the engine does not accept the name for the new VM. Raises FormatError, EngineError."""
    problem = why_not_vm_name(name, windows=ovf.is_windows(configuration))
    if problem is not None:
        raise UsageError(
            f"the engine does not accept the VM name {name!r}: {problem}",
            "Choose another name with --as-new-vm: letters, digits, '.', '_' and '-'.",
        )
    taken = vm_with_name(engine, name)
    if taken is not None:
        hint = (
            ""
            if vm_disks(engine, taken.id)
            else " This VM has no disks: an interrupted restore may have left it."
        )
        raise UsageError(f"a VM {name!r} already exists on the engine", f"Choose another name.{hint}")


def adapted(
    engine: Engine,
    configuration: str,
    name: str,
    cluster_id: str,
    *,
    keep_addresses: bool,
    no_network: bool,
    notify: Notify,
) -> str:
    """Return the configuration for the new VM, without the networks and MAC addresses that the engine would refuse.

    `notify` tells about each of them. With `no_network`, no interface keeps its network. Raises FormatError and
    EngineError.
    """
    interfaces = ovf.network_interfaces(configuration)
    networks = cluster_networks(engine, cluster_id) if interfaces and not no_network else None
    lost_networks = {interface.network for interface in interfaces} if no_network else set()
    for interface in interfaces if not no_network else ():
        if networks is not None and interface.network and interface.network not in networks:
            lost_networks.add(interface.network)
            notify(
                f"network interface {printable(interface.name)} of the new VM gets no network: the cluster has no "
                f"network {printable(interface.network)}. Connect it before you start the VM"
            )
    lost_addresses: set[str] = set()
    used = (
        used_addresses(engine) if keep_addresses and any(interface.mac for interface in interfaces) else None
    )
    for interface in interfaces:
        owner = used.get(interface.mac.lower()) if used is not None else None
        if owner is not None:
            lost_addresses.add(interface.mac)
            notify(
                f"network interface {printable(interface.name)} of the new VM gets a new MAC address: "
                f"VM {printable(owner)} uses {interface.mac}"
            )
    return ovf.for_new_vm(
        configuration,
        name,
        keep_addresses=keep_addresses,
        lost_networks=lost_networks,
        lost_addresses=lost_addresses,
    )
