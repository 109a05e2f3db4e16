# SPDX-License-Identifier: GPL-2.0-or-later
"""Unusual points are found, and normal noise is not: simulated histories of a year, and points that are listed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pitr.jobs import unusual
from pitr.jobs.unusual import Unusual, of_history, of_newest, words
from pitr.model import Record, VMName
from pitr.repository import Repository
from pitr.repository.catalog.changes import newest
from tests.jobs.status.histories import GiB, Night, changes, simulated, store
from tests.support.pitr import Pitr
from tests.support.points import VM, fake_stream

pytestmark = pytest.mark.usefixtures("quick_disk")

ATTACK = Night(38 * GiB, ratio=0.99)


def _noise(chance: random.Random, spread: float) -> float:
    return math.exp(chance.gauss(0, spread))


def _alarms(nights: Callable[[int], list[Night]], vms: int = 20) -> float:
    """Unusual points in a year of a VM, on average."""
    return sum(len(of_history(changes(nights(seed)))) for seed in range(vms)) / vms


# No alarm for what is normal.


@pytest.mark.parametrize(
    ("changed", "at_most"),
    [
        (lambda number, chance: 0.6 * GiB, 0),
        (lambda number, chance: 0, 0),
        (lambda number, chance: 0.6 * GiB * _noise(chance, 0.3), 0.0),
        (lambda number, chance: 0.6 * GiB * _noise(chance, 0.5), 0.2),
        (lambda number, chance: 0.6 * GiB * _noise(chance, 0.7), 0.5),
        # Small changes may vary by any factor.
        (lambda number, chance: 0.01 * GiB * _noise(chance, 1.2), 0.1),
        (lambda number, chance: (0 if number % 7 > 4 else 0.6 * GiB) * _noise(chance, 0.4), 0.1),
        (lambda number, chance: 0.1 * GiB * math.exp(number / 100) * _noise(chance, 0.4), 0.1),
    ],
    ids=["constant", "idle", "quiet", "noisy", "wild", "small", "office hours", "growing"],
)
def test_normal_nights_are_usual(changed: Callable[[int, random.Random], float], at_most: float) -> None:
    assert _alarms(lambda seed: simulated(365, changed, seed=seed)) <= at_most


@pytest.mark.parametrize("factor", [10, 60])
def test_a_weekly_job_is_usual(factor: int) -> None:
    def changed(number: int, chance: random.Random) -> float:
        return 0.6 * GiB * (factor if number % 7 == 6 else 1) * _noise(chance, 0.4)

    assert _alarms(lambda seed: simulated(365, changed, seed=seed)) <= 0.6


def test_a_monthly_job_is_unusual_only_once() -> None:
    def changed(number: int, chance: random.Random) -> float:
        return 0.6 * GiB * (60 if number % 30 == 29 else 1) * _noise(chance, 0.3)

    assert set(of_history(changes(simulated(365, changed)))) == {"29"}


def test_a_nightly_job_among_hourly_points_is_usual_after_its_first_night() -> None:
    def changed(number: int, chance: random.Random) -> float:
        return 0.1 * GiB * (100 if number % 24 == 12 else 1) * _noise(chance, 0.3)

    found = of_history(changes(simulated(1000, changed), gap=timedelta(hours=1)))
    assert set(found) <= {"12"}


def test_more_changes_gather_in_a_longer_pause() -> None:
    nights = simulated(40, lambda number, chance: (6 if number == 30 else 0.6) * GiB)
    assert set(of_history(changes(nights))) == {"30"}
    assert of_history(changes(nights, pauses=[30])) == {}


def test_data_that_never_compresses_is_usual_for_its_vm() -> None:
    nights = simulated(60, lambda number, chance: 0.6 * GiB * _noise(chance, 0.4), ratio=0.97)
    assert of_history(changes(nights)) == {}


# An attack is found.


@pytest.mark.parametrize("count", [7, 14, 30, 200])
@pytest.mark.parametrize("spread", [0.0, 0.3, 0.5])
def test_an_encryption_is_found(count: int, spread: float) -> None:
    found = 0
    for seed in range(20):
        nights = simulated(count, lambda number, chance: 0.6 * GiB * _noise(chance, spread), seed=seed)
        of_vm = of_history(changes([*nights, ATTACK]))
        found += {each.what for each in of_vm.get(str(count), ())} == {"changed", "ratio"}
    assert found >= 18


def test_the_nights_after_an_attack_stay_unusual() -> None:
    nights = simulated(30, lambda number, chance: 0.6 * GiB * _noise(chance, 0.3))
    assert set(of_history(changes([*nights, ATTACK, ATTACK]))) == {"30", "31"}


def test_a_smaller_encryption_is_found_by_its_ratio() -> None:
    nights = simulated(30, lambda number, chance: 0.6 * GiB * _noise(chance, 0.5))
    (found,) = of_history(changes([*nights, Night(1.5 * GiB, ratio=0.99)]))["30"]
    assert (found.what, found.value) == ("ratio", 0.99)
    assert words([found]) == f"hardly compressible (0.99, usually {found.usual:.2g}): encryption?"


def test_seven_earlier_points_are_needed() -> None:
    for count in range(9):
        found = of_history(changes([*([Night(0.6 * GiB)] * count), ATTACK]))
        assert bool(found) is (count >= 7)


def test_fulls_are_compared_with_fulls_only() -> None:
    full = Night(30 * GiB, kind="full")
    night = Night(0.6 * GiB)
    assert of_history(changes([full, *([night] * 10), full])) == {}
    larger = Night(90 * GiB * 4, ratio=0.99, kind="full")
    (data, ratio) = of_history(changes([full, *([night] * 10), *([full] * 6), larger], size=400 * GiB))["17"]
    assert (data.what, ratio.what) == ("data", "ratio")
    assert words([data]) == "holds 342 GiB of data, usually 28.5"


def test_a_few_changed_blocks_are_never_unusual() -> None:
    quiet = [Night(0)] * 20
    assert of_history(changes([*quiet, Night(0.5 * GiB, ratio=0.99)])) == {}
    assert of_history(changes([*quiet, Night(20 * GiB)])) != {}


def test_the_words_are_those_that_a_person_reads() -> None:
    both = [Unusual("changed", 38 * GiB, 0.6 * GiB), Unusual("ratio", 0.99, 0.4)]
    assert (
        words(both) == "changed 38 GiB, usually 0.6, and hardly compressible (0.99, usually 0.4): encryption?"
    )
    assert words([Unusual("changed", 38 * GiB, 5 << 20)]) == "changed 38 GiB, usually 5 MiB"
    assert words([Unusual("changed", 38 * GiB, 0)]) == "changed 38 GiB, usually 0 B"


# Points of a repository.


def test_the_list_and_the_point_show_where_the_attack_began(repository: Repository, command: Pitr) -> None:
    nights = [Night(0.6 * GiB)] * 9
    made = store(repository, [*nights, ATTACK, Night(0.6 * GiB)])
    attacked, after = made[10], made[11]
    listed = {point["backup_id"]: point["unusual"] for point in command.json("list")["points"]}
    found = listed.pop(attacked.backup_id)
    assert [(each["what"], each["value"]) for each in found] == [("changed", 38 * GiB), ("ratio", 0.99)]
    assert all(each == [] for each in listed.values())
    rows = [line for line in command("list").stdout.splitlines() if " unusual " in line]
    assert len(rows) == 1 and attacked.backup_id[:8] in rows[0]

    shown = command("show", attacked.backup_id).stdout
    assert "UNUSUAL: changed 38 GiB, usually 0.6, and hardly compressible (0.99, usually 0.4)" in shown
    later = command("show", after.backup_id).stdout
    assert "UNUSUAL" not in later and later.count(" unusual ") == 1
    document = command.json("show", after.backup_id)
    assert [bool(point["unusual"]) for point in document["chain"]] == [*([False] * 10), True, False]


def test_a_new_disk_makes_no_point_unusual(repository: Repository, command: Pitr) -> None:
    made = store(repository, [Night(0.6 * GiB)] * 9)
    disk = replace(fake_stream(5), size=50 * GiB, data_bytes=50 * GiB, zero_bytes=0)
    last = made[-1]
    more = replace(
        last,
        backup_id="new-disk",
        point=last.point + timedelta(days=1),
        parent_id=last.backup_id,
        streams=(
            replace(last.streams[0], stream_id="s", parent_stream_id=last.streams[0].stream_id),
            disk,
        ),
    )
    repository.commit(Record(more, None))
    assert all(point["unusual"] == [] for point in command.json("list")["points"])


def test_the_newest_point_alone_tells_the_same_as_the_whole_history(repository: Repository) -> None:
    chance = random.Random(4)
    for number in range(30):
        vm = VMName(f"vm{number}", f"vm{number}")
        count = chance.randrange(5, 60)
        nights = simulated(
            count, lambda number, chance: 0.6 * GiB * (30 if number % 7 == 6 else 1), seed=number
        )
        if chance.random() < 0.5:
            nights.append(chance.choice([ATTACK, Night(1.5 * GiB, 0.99), Night(36 * GiB), Night(9 * GiB)]))
        made = store(repository, nights, vm=vm, full_every=chance.choice([0, 0, 2, 10]))
        all_found = unusual.of_vms(repository.catalog, vm.id)
        recent = newest(repository.catalog, vm.id, 40)
        assert of_newest(repository.catalog, vm.id, recent) == all_found.get(made[-1].backup_id, ())


def test_a_vm_of_fulls_only_is_watched_as_well(repository: Repository) -> None:
    made = store(repository, [Night(0.6 * GiB)] * 12, full_every=1)
    assert {backup.kind for backup in made} == {"full"}
    assert unusual.of_vms(repository.catalog, VM.id) == {}
