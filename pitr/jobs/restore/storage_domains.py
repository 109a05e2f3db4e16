# SPDX-License-Identifier: GPL-2.0-or-later
"""Which storage domain each new disk goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.errors import UsageError
from pitr.model import Stream
from pitr.ovirt.engine import StorageDomain
from pitr.text import printable


def place(
    domains: Sequence[StorageDomain],
    streams: Sequence[Stream],
    wanted: str | None,
    disk_map: Mapping[str, str],
) -> dict[str, StorageDomain]:
    """The domain for each stream's disk, by disk id.

    `disk_map` names a domain by name or id for a disk (its name or id) or for all disks that were on a domain (its
    name or id); `wanted` is for all others; when None, where the disk was, else the only active data domain.
    Raises UsageError that lists what there is.
    """
    usable = [domain for domain in domains if domain.takes_disks]
    names = {domain.id: domain.name for domain in domains}
    disks = {key for stream in streams for key in (stream.disk_id, stream.name)}
    used: set[str] = set()
    placed: dict[str, StorageDomain] = {}
    for stream in streams:
        old = stream.settings.storage_domain_id
        # A name that a disk has is not that of a domain.
        domain = [key for key in (old, names.get(old or "")) if key is not None and key not in disks]
        key = next((key for key in (stream.disk_id, stream.name, *domain) if key in disk_map), None)
        if key is not None:
            used.add(key)
        placed[stream.disk_id] = _choose(usable, stream, disk_map[key] if key is not None else wanted)
    unused = sorted(disk_map.keys() - used)
    if unused:
        have = ", ".join(f"{printable(stream.name)} ({stream.disk_id})" for stream in streams)
        raise UsageError(
            f"--disk-map names {unused[0]!r}, which is neither a disk of the point nor a storage domain of one",
            f"The disks are: {have}.",
        )
    return placed


def _choose(domains: Sequence[StorageDomain], stream: Stream, wanted: str | None) -> StorageDomain:
    listed = ", ".join(f"{printable(domain.name)} ({domain.id})" for domain in domains) or "none"
    if wanted is not None:
        found = [domain for domain in domains if wanted in (domain.id, domain.name)]
        if len(found) != 1:
            raise UsageError(f"there is no active data storage domain {wanted!r}", f"There are: {listed}.")
        return found[0]
    original = [domain for domain in domains if domain.id == stream.settings.storage_domain_id]
    if original:
        return original[0]
    if len(domains) == 1:
        return domains[0]
    raise UsageError(
        f"the storage domain that disk {printable(stream.name)} was on is not there",
        f"Choose one with --storage-domain: {listed}.",
    )
