# SPDX-License-Identifier: GPL-2.0-or-later
"""A wrong clock is told when it labels a point, and by `pitr doctor`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr


def _skewed(lab: Lab, minutes: float) -> None:
    lab.clock.set(datetime.now().astimezone() + timedelta(minutes=minutes))


def _clock_check(pitr: Pitr) -> Any:
    (check,) = [check for check in pitr.json("doctor")["checks"] if check["name"] == "clock"]
    return check


@pytest.mark.parametrize(
    ("minutes", "words"), [(0, None), (1.5, None), (3, "3 min ahead"), (-3, "3 min behind")]
)
def test_a_backup_tells_that_the_clocks_differ_from_two_minutes_on(
    lab: Lab, pitr: Pitr, minutes: float, words: str | None
) -> None:
    vm = make_vm(lab, MiB)
    _skewed(lab, minutes)
    lines = [line for line in pitr("backup", vm.name).stderr.splitlines() if "clock" in line]
    check = _clock_check(pitr)
    if words is None:
        assert lines == [] and check["status"] == "ok"
        return
    assert len(lines) == 1 and vm.name in lines[0]
    # Some seconds pass, so the shown difference may be less by one.
    shown = words if words in lines[0] else words.replace("3 min", "2 min 59 s")
    assert shown.split(" ", 2)[0] in lines[0] and words.split()[-1] in lines[0]
    assert check["status"] == "warning" and words.split()[-1] in check["message"]


def test_a_clock_that_was_set_back_is_told_at_the_backup_and_by_doctor(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB)
    _skewed(lab, 0)
    first = pitr.backup(vm.name)
    _skewed(lab, -60)
    told = pitr("backup", vm.name).stderr
    assert "the engine's clock was set back or was wrong" in told and first["backup_id"] in told
    _skewed(lab, 0)
    assert "clock" not in pitr("backup", vm.name).stderr
    check = _clock_check(pitr)
    assert check["status"] == "warning" and vm.name in check["message"]


def test_prune_removes_no_newer_points_after_the_clock_went_back(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB)
    _skewed(lab, 0)
    old = pitr.backup(vm.name, "--full")
    _skewed(lab, -60)
    newer = [pitr.backup(vm.name), pitr.backup(vm.name)]
    assert newer[0]["parent_id"] == old["backup_id"]
    pitr("prune", "--keep-last", "1", "--no-consolidate")
    left = {point["backup_id"] for point in pitr.json("list", vm.name)["points"]}
    assert left == {old["backup_id"], *(point["backup_id"] for point in newer)}
    pitr("prune", "--keep-last", "1")
    [kept] = pitr.json("list", vm.name)["points"]
    assert kept["stands_for"] == newer[1]["backup_id"]
