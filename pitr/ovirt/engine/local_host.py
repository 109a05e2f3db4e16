# SPDX-License-Identifier: GPL-2.0-or-later
"""Find out whether pitr runs on a host of the engine: a transfer through this host needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovirtsdk4 import types

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disks import get_disk
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.storage import list_storage_domains
from pitr.ovirt.engine.values import is_uuid

#: The file with the id of an oVirt host.
VDSM_ID_FILE = Path("/etc/vdsm/vdsm.id")


def local_host_id(engine: Engine, disk_id: str, vdsm_id_file: Path = VDSM_ID_FILE) -> str | None:
    """Return the id of this machine as a host of the engine, None if it is not a host or cannot serve the disk.

    The host must be up, and its data center must contain the disk's storage domain. Raises NoSuchDisk, EngineError.
    """
    try:
        host_id = vdsm_id_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not is_uuid(host_id):
        return None
    try:
        host = engine.call(
            f"reading host {host_id}", lambda system: system.hosts_service().host_service(host_id).get()
        )
        if host.status != types.HostStatus.UP or host.cluster is None or not host.cluster.id:
            return None
        center_id = _data_center_id(engine, host.cluster.id)
    except EngineFault as fault:
        if fault.status not in (403, 404):
            raise
        engine.log.debug("%s; the engine chooses the host", fault.message)
        return None
    reachable = {
        domain.id
        for domain in list_storage_domains(engine)
        if center_id is not None and center_id in domain.data_center_ids
    }
    return host_id if reachable.intersection(get_disk(engine, disk_id).storage_domain_ids) else None


def _data_center_id(engine: Engine, cluster_id: str) -> Any:
    cluster = engine.call(
        f"reading cluster {cluster_id}",
        lambda system: system.clusters_service().cluster_service(cluster_id).get(),
    )
    return cluster.data_center.id if cluster.data_center is not None else None
