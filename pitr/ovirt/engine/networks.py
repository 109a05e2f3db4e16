# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the networks of a cluster, and the MAC addresses that VMs use."""

from __future__ import annotations

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault


def cluster_networks(engine: Engine, cluster_id: str) -> frozenset[str] | None:
    """Return the names of the cluster's networks; None if the engine does not show them. Raises EngineError."""
    try:
        networks = engine.call(
            f"listing the networks of cluster {cluster_id}",
            lambda system: system.clusters_service().cluster_service(cluster_id).networks_service().list(),
        )
    except EngineFault as fault:
        _check_answered(engine, fault)
        return None
    return frozenset(network.name for network in networks if network.name)


def used_addresses(engine: Engine) -> dict[str, str] | None:
    """Return the VMs' names by the MAC addresses (lower case) that they use; None if the engine does not show them.

    Raises EngineError.
    """
    try:
        vms = engine.call(
            "listing the network interfaces of all VMs",
            lambda system: system.vms_service().list(follow="nics"),
        )
    except EngineFault as fault:
        _check_answered(engine, fault)
        return None
    return {
        nic.mac.address.lower(): vm.name
        for vm in vms
        for nic in vm.nics or ()
        if nic.mac is not None and nic.mac.address
    }


def _check_answered(engine: Engine, fault: EngineFault) -> None:
    """Raise `fault` if the engine did not answer; else the creation of the VM shows what the engine accepts."""
    if fault.status is None:
        raise fault
    engine.log.debug("%s", fault.message)
