# SPDX-License-Identifier: GPL-2.0-or-later
"""What a replication is asked to do, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pitr.errors import BusyError, DamageError, NoFittingIdentity
from pitr.model import VMName
from pitr.reporting import Notify, Progress
from pitr.repository.damage import Damage
from pitr.repository.store import ColdObject


@dataclass(frozen=True, slots=True)
class ReplicateOptions:
    """What to copy: the points of these VMs (None: of all) since a time (None: all), and what they need.

    `repair` also reads the target's objects, and replaces missing and damaged ones. `workers`: objects at once.
    """

    vms: Sequence[VMName] | None = None
    since: datetime | None = None
    repair: bool = False
    dry_run: bool = False
    workers: int = 4


@dataclass(frozen=True, slots=True)
class ReplicateWatch:
    """Who is told while it works: lines for people, and the bytes that are done."""

    notify: Notify
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class RepairedObject:
    """An object of the target that was replaced: its name, and what was wrong with it."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class BusyVMOfTarget:
    """A VM of which the target removes points, so that none could be added."""

    vm: VMName
    message: str


@dataclass(slots=True)
class Replicated:
    """What was copied (or would be), and what was not.

    `damage` was found in the source, `unrepaired` in the target. `behind` counts the points that the target still
    lacks, `cold` the objects that were not read because they are in a cold storage class, `unopened` the points that no
    given identity opens.
    """

    source: str
    target: str
    target_id: str | None = None
    points: int = 0
    objects: int = 0
    bytes: int = 0
    repaired: list[RepairedObject] = field(default_factory=list)
    behind: int = 0
    damage: list[Damage] = field(default_factory=list)
    unrepaired: list[Damage] = field(default_factory=list)
    busy: list[BusyVMOfTarget] = field(default_factory=list)
    cold: int = 0
    unopened: int = 0

    def note(self, damage: Damage) -> None:
        """Add damage of the source, once."""
        if damage not in self.damage:
            self.damage.append(damage)

    @property
    def exit_code(self) -> int:
        """3 for damage, 6 for cold objects, 1 for points that no identity opens, 5 if only VMs were busy, else 0."""
        if self.damage or self.unrepaired:
            return DamageError.exit_code
        if self.cold:
            return ColdObject.exit_code
        if self.unopened:
            return NoFittingIdentity.exit_code
        return BusyError.exit_code if self.busy else 0
