# SPDX-License-Identifier: GPL-2.0-or-later
"""List the storage domains, where disks are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, required

_BLOCK_STORAGE = frozenset({"iscsi", "fcp"})


@dataclass(frozen=True, slots=True)
class StorageDomain:
    """A storage domain. `type` is "data", "iso"…, `storage_type` "nfs", "iscsi"…; `available` bytes are free."""

    id: str
    name: str
    type: str
    storage_type: str
    is_block: bool
    active: bool
    data_center_ids: tuple[str, ...]
    available: int | None = None

    @property
    def takes_disks(self) -> bool:
        """Whether you can create disks on it: it is an active data domain."""
        return self.type == "data" and self.active


def list_storage_domains(engine: Engine) -> list[StorageDomain]:
    """Return all storage domains that the user can see, sorted by name. Raises EngineError."""
    found = engine.call("listing storage domains", lambda system: system.storage_domains_service().list())
    return sorted((_read(engine, domain) for domain in found), key=lambda domain: (domain.name, domain.id))


def active_data_domains(engine: Engine) -> list[StorageDomain]:
    """Return the active data domains, where you can create disks, sorted by name. Raises EngineError."""
    return [domain for domain in list_storage_domains(engine) if domain.takes_disks]


def disk_profiles(engine: Engine, domain_id: str) -> dict[str, str]:
    """Return the names of the domain's disk profiles by id; empty if the engine does not show them.

    Raises EngineError.
    """
    try:
        profiles = engine.call(
            f"listing the disk profiles of storage domain {domain_id}",
            lambda system: (
                system.storage_domains_service()
                .storage_domain_service(domain_id)
                .disk_profiles_service()
                .list()
            ),
        )
    except EngineFault as fault:
        if fault.status is None:
            raise
        engine.log.debug("%s", fault.message)
        return {}
    return {profile.id: profile.name or profile.id for profile in profiles if profile.id}


def disk_profile_name(engine: Engine, profile_id: str) -> str | None:
    """Return the name of a disk profile; None if it does not exist or the engine does not show it.

    Raises EngineError.
    """
    try:
        profile = engine.call(
            f"reading disk profile {profile_id}",
            lambda system: system.disk_profiles_service().disk_profile_service(profile_id).get(),
        )
    except EngineFault as fault:
        if fault.status is None:
            raise
        engine.log.debug("%s", fault.message)
        return None
    return str(profile.name) if profile.name else None


def _read(engine: Engine, domain: Any) -> StorageDomain:
    domain_id = required(domain.id, "a storage domain's id")
    centers = tuple(center.id for center in domain.data_centers or () if center.id)
    if not centers and domain.data_center is not None and domain.data_center.id:
        centers = (domain.data_center.id,)
    storage_type = enum_text(domain.storage.type) if domain.storage is not None else "unknown"
    return StorageDomain(
        id=domain_id,
        name=required(domain.name, "a storage domain's name"),
        type=enum_text(domain.type, absent="data"),
        storage_type=storage_type,
        is_block=storage_type in _BLOCK_STORAGE,
        active=_is_active(engine, domain, centers),
        data_center_ids=centers,
        available=domain.available,
    )


def _is_active(engine: Engine, domain: Any, data_center_ids: tuple[str, ...]) -> bool:
    """Return whether the domain is active. Only its data center reports the status of an attached domain."""
    if domain.status is not None or not data_center_ids:
        return enum_text(domain.status, absent="active") == "active"
    return any(_is_active_in(engine, domain.id, center_id) for center_id in data_center_ids)


def _is_active_in(engine: Engine, domain_id: str, data_center_id: str) -> bool:
    def read(system: Any) -> Any:
        center = system.data_centers_service().data_center_service(data_center_id)
        return center.storage_domains_service().storage_domain_service(domain_id).get()

    try:
        attached = engine.call(f"reading storage domain {domain_id}", read)
    except EngineFault as fault:
        if fault.status is None:
            raise
        # The user cannot see it there; creating a disk shows whether it is active.
        engine.log.debug("%s", fault.message)
        return True
    return enum_text(attached.status, absent="active") == "active"
