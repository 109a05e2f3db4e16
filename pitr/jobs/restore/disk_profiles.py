# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk profiles of new disks. A profile belongs to one storage domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.model import Stream
from pitr.ovirt.engine import Engine, StorageDomain, disk_profile_name, disk_profiles
from pitr.reporting import Notify
from pitr.text import printable


def choose_profiles(
    engine: Engine,
    streams: Sequence[Stream],
    placed: Mapping[str, StorageDomain],
    domains: Sequence[StorageDomain],
    notify: Notify,
) -> dict[str, str]:
    """Return the disk profiles of new disks on the domains in `placed`, by disk id: the old one, or one of its name.

    Other disks are absent and get the default profile; `notify` tells those that lose a profile which was not the
    default of their domain. `domains` are all storage domains. Raises EngineError.
    """
    domain_names = {domain.name for domain in domains}
    chosen: dict[str, str] = {}
    for stream in streams:
        old = stream.settings.disk_profile_id
        if old is None:
            continue
        domain = placed[stream.disk_id]
        known = disk_profiles(engine, domain.id)
        name = known.get(old) or disk_profile_name(engine, old)
        same = old if old in known else next((id for id, each in known.items() if each == name), None)
        if same is not None:
            chosen[stream.disk_id] = same
        elif name not in domain_names:
            # The engine names a domain's default profile after the domain.
            notify(
                f"the new disk for {printable(stream.name)} gets the default disk profile: storage domain "
                f"{printable(domain.name)} has no profile {printable(name or old)}"
            )
    return chosen
