# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a removal of points."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.errors import BusyError, PitrError
from pitr.jobs.upkeep.point_list import PointList
from pitr.jobs.upkeep.protected import Protected
from pitr.model import VMName
from pitr.repository.history import Failure, StepOutcome, VMOfRun


@dataclass(frozen=True, slots=True)
class BusyVM:
    """A VM whose points another process uses, so all of them stay."""

    vm: VMName
    message: str


@dataclass(frozen=True, slots=True)
class FailedRemoval:
    """The failure that ended the removal from one VM; `vm` is None for the unreferenced objects."""

    vm: VMName | None
    error: PitrError


@dataclass(slots=True)
class Pruned:
    """What a run removed (or would remove) and kept, VM by VM, newest first. `unreferenced`: the names of such objects.

    The items of `kept` have the reasons why a point is kept. Where a removal only hides points, `swept` has the points
    that earlier runs hid and that are gone now. `consolidated` are new records that took the place of points, with
    `copied_bytes` in blobs of their own. `left_external`: the ids of removed streams whose external
    data was not deleted. `protected`: what protection from removal was extended, if the repository has a lock. The
    points of `busy` VMs are neither in `removed` nor in `kept`.
    """

    removed: PointList = field(default_factory=PointList)
    kept: PointList = field(default_factory=PointList)
    swept: PointList = field(default_factory=PointList)
    consolidated: PointList = field(default_factory=PointList)
    copied_bytes: int = 0
    unreferenced: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    left_external: list[str] = field(default_factory=list)
    protected: Protected | None = None
    busy: list[BusyVM] = field(default_factory=list)
    failed: list[FailedRemoval] = field(default_factory=list)

    @property
    def kept_by(self) -> dict[str, list[str]]:
        """The reasons why points are kept, by backup id."""
        return {item.backup.backup_id: list(item.reasons) for item in self.kept.items()}

    @property
    def exit_code(self) -> int:
        """0; the exit code of the failures if it is the same for all, else 1; for VMs that are only busy, 5."""
        codes = {failure.error.exit_code for failure in self.failed} or {
            BusyError.exit_code for _ in self.busy
        }
        return min(codes, default=0) if len(codes) < 2 else PitrError.exit_code

    def steps(self, name: str) -> list[StepOutcome]:
        """Return the VMs that are busy or failed, as the history of runs keeps them."""
        busy = [(each.vm, BusyError(each.message)) for each in self.busy]
        failed = [(each.vm, each.error) for each in self.failed]
        return [
            StepOutcome(name, VMOfRun(vm.id, vm.name) if vm is not None else None, False, Failure.of(error))
            for vm, error in (*busy, *failed)
        ]
