# SPDX-License-Identifier: GPL-2.0-or-later
"""The hosts of the engine: their names, their clusters, and which of them this machine is."""

from __future__ import annotations

from pathlib import Path

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.local_host import VDSM_ID_FILE
from pitr.ovirt.engine.values import is_uuid


def this_host(vdsm_id_file: Path = VDSM_ID_FILE) -> str | None:
    """Return the id of this machine as a host; None if it is no host."""
    try:
        host_id = vdsm_id_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return host_id if is_uuid(host_id) else None


def cluster_of_host(engine: Engine, host_id: str) -> str | None:
    """Return the id of the host's cluster; None if the engine does not know it. Raises EngineError."""
    try:
        host = engine.call(
            f"reading host {host_id}", lambda system: system.hosts_service().host_service(host_id).get()
        )
    except EngineFault as fault:
        if fault.status in (403, 404):
            return None
        raise
    return host.cluster.id if host.cluster is not None else None


def host_names(engine: Engine) -> dict[str, str]:
    """Return the names of the hosts that the user may see, by id. Raises EngineError."""
    try:
        hosts = engine.call("listing hosts", lambda system: system.hosts_service().list())
    except EngineFault as fault:
        if fault.status is None or fault.status >= 500:
            raise
        engine.log.debug("%s", fault.message)
        return {}
    return {host.id: host.name for host in hosts if host.id and host.name}
