# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a verification, and what a check of some VMs adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from typing import Literal

from pitr.jobs.verify.checked_ids import CheckedIds
from pitr.model import Backup, Stream
from pitr.repository.damage import Damage

Level = Literal["quick", "full"]


@dataclass(slots=True)
class Verified:
    """How much was checked (`bytes`: stored bytes read), and all damage.

    `external` counts the streams that are stored externally: pitr checked only their record and index. `unopened`
    counts those that no identity opens: pitr compared only stored digests. Of those in `missed`, it did not even that.
    """

    level: str
    points: int = 0
    streams: int = 0
    frames: int = 0
    bytes: int = 0
    external: int = 0
    unopened: int = 0
    missed: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.damage

    def add(self, other: Verified) -> None:
        """Add what was checked elsewhere: other points, other streams."""
        for counted in fields(self):
            if counted.name != "level":
                setattr(self, counted.name, getattr(self, counted.name) + getattr(other, counted.name))


@dataclass(frozen=True, slots=True)
class VMChecked:
    """What a check of one VM found: `result`, and what the whole check needs of it.

    `found` is damage by VM id, `used` are streams of others that the VM's streams use, `unreadable` are backup ids.
    """

    result: Verified
    checked: CheckedIds
    found: Mapping[str, list[Damage]]
    used: Mapping[str, tuple[Backup, Stream]]
    unreadable: Set[str]
    stored_bytes: int


#: A VM's id with the names of its records in the store.
ListedVM = tuple[str, set[str]]
#: Checks VMs elsewhere, given the ids that earlier findings are about. Yields them in order, each with what was found;
#: None for a VM that must be checked here.
CheckVMs = Callable[[Iterable[ListedVM], Set[str | None]], Iterator[tuple[ListedVM, VMChecked | None]]]
