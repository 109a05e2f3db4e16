# SPDX-License-Identifier: GPL-2.0-or-later
"""The storage domain of each new disk."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.errors import UsageError
from pitr.jobs import find
from pitr.jobs.restore.choice import Placement
from pitr.model import Stream
from pitr.ovirt.engine import StorageDomain
from pitr.text import named, printable


def place(
    domains: Sequence[StorageDomain], streams: Sequence[Stream], placement: Placement
) -> dict[str, StorageDomain]:
    """Return the storage domain of each stream's new disk, by disk id. Raises UsageError that lists the choices.

    `domains` are all storage domains: disks go to active data domains, but may have been on any.
    """
    usable = [domain for domain in domains if domain.takes_disks]
    domain_names = {domain.id: domain.name for domain in domains}
    disk_keys = {key for stream in streams for key in (stream.disk_id, stream.name)}
    used: set[str] = set()
    placed: dict[str, StorageDomain] = {}
    for stream in streams:
        old = stream.settings.storage_domain_id
        # A name that both a disk and a domain have means the disk.
        domain_keys = [
            key for key in (old, domain_names.get(old or "")) if key is not None and key not in disk_keys
        ]
        keys = (stream.disk_id, stream.name, *domain_keys)
        key = next((key for key in keys if key in placement.disk_map), None)
        if key is None:
            wanted = placement.storage_domain
        else:
            wanted = placement.disk_map[key]
            used.add(key)
        placed[stream.disk_id] = _choose(usable, stream, wanted)
    unused = sorted(placement.disk_map.keys() - used)
    if unused:
        disks = ", ".join(named(stream.name, stream.disk_id) for stream in streams)
        raise UsageError(
            f"--disk-map names {unused[0]!r}, which is neither a disk of the point nor a storage domain of one",
            f"Use one of these disks: {disks}.",
        )
    return placed


def domain_named(usable: Sequence[StorageDomain], wanted: str) -> StorageDomain:
    """Return the active data domain with this id or name. Raises UsageError that lists `usable`."""
    domain = find.by_id_or_name(
        wanted, "storage domains", [(domain.id, domain.name, domain) for domain in usable]
    )
    if domain is None:
        raise UsageError(f"no active data storage domain {wanted!r}", f"Use one of: {list_domains(usable)}.")
    return domain


def list_domains(usable: Sequence[StorageDomain]) -> str:
    """Return the names and ids of storage domains, for an advice."""
    return ", ".join(named(domain.name, domain.id) for domain in usable) or "none"


def _choose(usable: Sequence[StorageDomain], stream: Stream, wanted: str | None) -> StorageDomain:
    if wanted is not None:
        return domain_named(usable, wanted)
    for domain in usable:
        if domain.id == stream.settings.storage_domain_id:
            return domain
    if len(usable) == 1:
        return usable[0]
    raise UsageError(
        f"the storage domain of disk {printable(stream.name)} does not exist or is not active",
        f"Choose one with --storage-domain: {list_domains(usable)}.",
    )
