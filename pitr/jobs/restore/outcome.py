# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the disks of a restore go, and the VM that gets them: before it as a plan, after it as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pitr.text import printable


@dataclass(frozen=True, slots=True)
class TargetPlace:
    """Where one disk is restored to.

    `name` is the new disk's alias or the file, `format` "cow" or "raw" as on the engine, or the format of the file.
    `available` bytes are free on the storage domain or file system, None if unknown. `status` is the new disk's status
    on the engine; None before it exists, and for a file. A file has no storage domain.
    """

    name: str
    format: str
    sparse: bool
    available: int | None
    storage_domain_id: str | None = None
    storage_domain: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Twin:
    """The VM of the point, which exists beside the new VM."""

    id: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class TargetVM:
    """The VM that gets the disks. `id` and `status` are None before it exists, `status` also if it is unknown."""

    id: str | None
    name: str
    status: str | None
    twin: Twin | None = None

    def warning(self) -> str | None:
        """Return a warning of the twin: the two guests have the same host name and addresses."""
        if self.twin is None:
            return None
        name, twin = printable(self.name), printable(self.twin.name)
        same = "the same host name and, unless it gets it by DHCP, the same IP address"
        if self.status in ("up", "powering_up", "reboot_in_progress") and self.twin.status != "down":
            return f"VM {name} now runs beside VM {twin}, which it is a copy of: it has {same}. Shut one of them down"
        return (
            f"VM {name} is a copy of VM {twin}, which is {self.twin.status}: it has {same}. Do not let both run in one "
            "network"
        )


@dataclass(frozen=True, slots=True)
class TargetOutcome:
    """Where the disks go, by disk id in the point, and the VM that gets them; None if no VM does."""

    places: Mapping[str, TargetPlace]
    vm: TargetVM | None = None
