# SPDX-License-Identifier: GPL-2.0-or-later
"""`--at`: the point that a time means, in any time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.lab import MiB, assert_same, make_vm, oracle_of
from tests.support.pitr import Pitr
from tests.support.shared_points import repository_of, take_copy

#: The times of three points, by the engine's clock.
MOMENTS = ("2020-06-29T22:00:00+02:00", "2020-06-30T10:00:00+02:00", "2020-06-30T22:00:00+02:00")
UTC_LABELS = ("2020-06-29T20:00:00Z", "2020-06-30T08:00:00Z", "2020-06-30T20:00:00Z")


@pytest.fixture(scope="module")
def stored_points(
    shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[tuple[Any, Path]]]]:
    """A repository with points at MOMENTS, and each point with a copy of its only disk."""
    folder = tmp_path_factory.mktemp("points")
    made = []
    with repository_of(shared_lab, folder) as (pitr, vm):
        for number, moment in enumerate(MOMENTS):
            shared_lab.clock.set(moment, frozen=True)
            with vm.disks[0].guest() as guest:
                guest.write(0, bytes([65 + number]) * MiB)
            with oracle_of(shared_lab, folder / str(number)) as oracle:
                point = pitr.backup(vm.name)
            made.append((point, oracle[vm.disks[0].id]))
        assert tuple(point["point"] for point, _ in made) == UTC_LABELS
        shared_lab.clock.set(datetime.now().astimezone())
        yield pitr.repository, made


@pytest.fixture
def points(
    stored_points: tuple[Path, list[tuple[Any, Path]]], lab: Lab, pitr: Pitr
) -> list[tuple[Any, Path]]:
    """Put a copy of the points into the test's own repository, at the time of the last one."""
    take_copy(stored_points[0], pitr)
    lab.clock.set(MOMENTS[-1], frozen=True)
    return stored_points[1]


@pytest.mark.parametrize(
    ("zone", "at", "number", "age_s"),
    [
        ("Europe/Berlin", "2020-06-30T22:00", 2, 0),
        ("Europe/Berlin", "2020-06-30 22:00", 2, 0),
        ("UTC", "2020-06-30T22:00", 2, 7200),
        ("America/New_York", "2020-06-30T15:59:59", 1, 12 * 3600 - 1),
        ("America/New_York", "2020-06-30T16:00", 2, 0),
        ("UTC", "2020-06-30T22:00+02:00", 2, 0),
        ("UTC", "2020-06-30T20:00:00Z", 2, 0),
        ("UTC", "2020-06-30T19:59:59.999999Z", 1, 12 * 3600 - 1e-6),
        ("UTC", "2020-06-30T08:00:00Z", 1, 0),
        ("UTC", "2020-06-29T20:00:00Z", 0, 0),
        ("UTC", "2020-06-30", 2, 0),
        ("UTC", "2020-06-29", 0, 0),
        ("UTC", "2020-06-30T08", 1, 0),
        ("UTC", "2020-07-01", 2, 4 * 3600),
        ("Asia/Kolkata", "2020-06-30T13:30", 1, 0),
        ("UTC", "2020-06-30T08:00:00-12:00", 2, 0),
    ],
)
def test_a_time_means_the_newest_point_within_it_or_before_it(
    pitr: Pitr, points: list[tuple[Any, Path]], tmp_path: Path, zone: str, at: str, number: int, age_s: float
) -> None:
    there = pitr.with_environment(TZ=zone)
    document = there.json("restore", "--at", at, "--to-file", tmp_path / "disk.raw")
    point, oracle = points[number]
    assert document["point"] == point
    assert document["age_s"] == pytest.approx(age_s)
    assert document["next_point"] == (UTC_LABELS[number + 1] if number < 2 else None)
    assert document["vm_id"] is None
    assert_same(tmp_path / "disk.raw", oracle)


def test_a_time_before_the_first_point_names_the_first(pitr: Pitr, points: Any, tmp_path: Path) -> None:
    there = pitr.with_environment(TZ="Europe/Berlin")
    arguments = ("restore", "--at", "2020-06-29T21:59:59", "--to-file", str(tmp_path / "disk.raw"))
    failed = there(*arguments, code=4)
    assert "2020-06-29 22:00:00 CEST" in failed.complaint and UTC_LABELS[0] in failed.complaint
    error = there(*arguments, "--output", "json", code=4).error
    assert error["type"] == "NoSuchPoint" and UTC_LABELS[0] in error["advice"]
    assert not (tmp_path / "disk.raw").exists()


@pytest.mark.parametrize(
    ("zone", "at", "readings"),
    [
        ("Europe/Berlin", "2020-10-25T02:30", ("2020-10-25T02:30+02:00", "2020-10-25T02:30+01:00")),
        ("Europe/Berlin", "2020-03-29T02:30", ("2020-03-29T01:30+01:00", "2020-03-29T03:30+02:00")),
        ("America/New_York", "2020-11-01T01:15", ("2020-11-01T01:15-04:00", "2020-11-01T01:15-05:00")),
    ],
)
def test_a_local_time_that_happened_twice_or_never_is_refused_with_both_readings(
    pitr: Pitr, points: Any, tmp_path: Path, zone: str, at: str, readings: tuple[str, str]
) -> None:
    there = pitr.with_environment(TZ=zone)
    error = there.json("restore", "--at", at, "--to-file", tmp_path / "disk.raw", code=2)["error"]
    assert error["type"] == "UsageError"
    for reading in readings:
        assert reading in error["message"] + error["advice"]
        # pitr accepts each reading in the form that it prints, even if it is before the first point.
        answer = there("restore", "--at", reading, "--dry-run", code=0 if "2020-1" in reading else 4)
        assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("at", ["yesterday-ish", "2020-13-01", "2020-06-31T10:00", "", "22", "1e9"])
def test_an_invalid_time_is_a_usage_error(pitr: Pitr, points: Any, at: str) -> None:
    assert pitr("restore", "--at", at, "--dry-run", code=2).complaint


def test_the_choice_is_shown_with_its_zone_age_and_the_next_point(pitr: Pitr, points: Any) -> None:
    there = pitr.with_environment(TZ="Europe/Berlin")
    said = there("restore", "--at", "2020-06-30T21:00", "--dry-run").stderr
    assert "2020-06-30 10:00:00 CEST" in said
    assert "11 h" in said
    assert "2020-06-30 22:00:00 CEST" in said


def test_the_three_commands_of_the_user_work_as_written(
    pitr: Pitr, points: list[tuple[Any, Path]], lab: Lab
) -> None:
    there = pitr.with_environment(TZ="Europe/Berlin")
    before = {disk.id for disk in lab.disks}
    there("restore", "--at", "2020-06-30T22:00")
    (made,) = [disk for disk in lab.disks if disk.id not in before]
    assert made.status == "ok"
    taken = there("backup", "--incremental", "--output", "json").json["backups"]
    assert [backup["kind"] for backup in taken] == ["incremental"]
    assert there.json("verify")["checked"]["points"] == 4


def test_a_clock_that_was_set_back_does_not_break_the_chain(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    made = []
    for number, moment in enumerate(
        ("2020-06-30T22:00:00+02:00", "2020-06-30T21:00:00+02:00", "2020-06-30T21:30:00+02:00")
    ):
        lab.clock.set(moment, frozen=True)
        with vm.disks[0].guest() as guest:
            guest.write(number * 1000, bytes([65 + number]) * 70000)
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            made.append((pitr.backup(vm.name), oracle[vm.disks[0].id]))
    assert [point["kind"] for point, _ in made] == ["full", "incremental", "incremental"]
    assert made[2][0]["parent_id"] == made[1][0]["backup_id"]
    document = pitr.json("restore", "--at", "2020-06-30T21:45+02:00", "--to-file", tmp_path / "disk.raw")
    assert document["point"]["backup_id"] == made[2][0]["backup_id"]
    assert_same(tmp_path / "disk.raw", made[2][1])


def test_points_of_one_and_the_same_time_keep_their_order(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    lab.clock.set(MOMENTS[0], frozen=True)
    made = []
    for number in range(4):
        with vm.disks[0].guest() as guest:
            guest.write(number * 1000, bytes([65 + number]) * 70000)
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            made.append((pitr.backup(vm.name), oracle[vm.disks[0].id]))
    listed = [point["backup_id"] for point in pitr.json("list")["points"]]
    assert listed == [point["backup_id"] for point, _ in reversed(made)]
    document = pitr.json("restore", "--at", MOMENTS[0], "--to-file", tmp_path / "disk.raw")
    assert document["point"]["backup_id"] == made[-1][0]["backup_id"]
    assert_same(tmp_path / "disk.raw", made[-1][1])


@pytest.mark.parametrize("compat", ["4.6", "4.7"])
def test_the_interval_of_a_point_follows_the_engines_dates(lab: Lab, pitr: Pitr, compat: str) -> None:
    """In live mode the state is between the checkpoint and READY; in hybrid mode, between creation and checkpoint."""
    vm = make_vm(lab, MiB, compat=compat)
    lab.clock.set("2020-06-30T22:00:00+02:00")
    begin_backup = lab.host.begin_backup
    lab.engine.phase_lag_s = 0.1
    point = pitr.backup(vm.name)
    assert begin_backup == lab.host.begin_backup
    with lab.engine.state.lock:
        backup = lab.engine.state.backups[point["backup_id"]]
        checkpoint = lab.engine.state.vm(vm.id).checkpoints[-1]
    from pitr import times

    if compat == "4.6":
        assert point["mode"] == "live"
        assert times.from_text(point["lo"]) == _milliseconds(checkpoint.created)
        assert times.from_text(point["lo"]) < times.from_text(point["point"])
        assert times.from_text(point["point"]) < backup.modified
    else:
        assert point["mode"] == "hybrid"
        assert times.from_text(point["point"]) == _milliseconds(checkpoint.created)
        assert times.from_text(point["lo"]) == _milliseconds(backup.created)
        assert times.from_text(point["lo"]) < times.from_text(point["point"])


def _milliseconds(moment: Any) -> Any:
    """Return a date with the precision of the engine's API."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
