# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr stats`: sums, growth, the forecast, and what a prune would free."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import timedelta

import pytest

from pitr import times
from pitr.jobs.stats import stats
from pitr.model import VMName
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer

NOW = times.now()
DAY = timedelta(days=1)


@pytest.fixture
def writer(repository: Repository) -> Writer:
    """A full of 50 days ago, and an incremental each ten days since."""
    writer = Writer(repository)
    writer.add("1m:A 1m:B", full=True, point=NOW - 50 * DAY)
    for days in (40, 25, 15, 5):
        writer.add("64k:X 1m:-", point=NOW - days * DAY)
    return writer


def test_the_figures_are_the_sums_of_the_points(writer: Writer, command: Pitr) -> None:
    document = command.json("stats")
    [vm] = document["vms"]
    backups = writer.backups
    assert vm["vm"] == {"id": backups[0].vm.id, "name": backups[0].vm.name} and vm["points"] == 5
    assert vm["stored_bytes"] == sum(backup.stored_bytes for backup in backups)
    assert vm["data_bytes"] == sum(each.data_bytes for backup in backups for each in backup.streams)
    assert vm["ratio"] == pytest.approx(vm["stored_bytes"] / vm["data_bytes"])
    assert (vm["first"], vm["newest"]) == (times.to_text(backups[0].point), times.to_text(backups[4].point))
    grown = sum(backup.stored_bytes for backup in backups[2:])
    assert vm["growth_bytes_per_day"] == pytest.approx(grown / 30, abs=1) and vm["freed_bytes"] is None
    total = document["total"]
    assert total["stored_bytes"] == vm["stored_bytes"] and total["points"] == 5
    assert total["capacity_bytes"] == shutil.disk_usage(command.repository).total
    assert total["full_in_days"] == pytest.approx(total["free_bytes"] / vm["growth_bytes_per_day"])


def test_the_first_point_is_no_growth(repository: Repository) -> None:
    writer = Writer(repository)
    writer.add("4m:A", full=True, point=NOW - 10 * DAY)
    assert stats(repository, [], None, NOW).vms[0].growth_bytes_per_day is None
    writer.add("64k:X", point=NOW - 5 * DAY)
    found = stats(repository, [], None, NOW)
    assert found.vms[0].growth_bytes_per_day == round(writer.backups[1].stored_bytes / 10)
    assert stats(repository, [], None, NOW - 9.5 * DAY).full_in_days is None


def test_the_text_says_when_the_repository_is_full(
    writer: Writer, command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = command.json("stats")["total"]["growth_bytes_per_day"]
    usage = shutil._ntuple_diskusage(1 << 40, 0, 41 * growth)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "full in 41 days" in command("stats").stdout


def test_rules_say_what_a_prune_would_free(writer: Writer, command: Pitr) -> None:
    writer.add("1m:C 1m:D", full=True, point=NOW - DAY)
    found = command.json("stats", "web", "--keep-last", "1")
    planned = command.json("prune", "--keep-last", "1", "--dry-run")
    removed = sum(point["stored_bytes"] for point in planned["removed"])
    assert found["vms"][0]["freed_bytes"] == found["total"]["freed_bytes"] == removed > 0
    assert "Prune frees" in command("stats", "--keep-last", "1").stdout
    command("stats", "nosuch", code=4)


def test_the_forecast_counts_all_vms(writer: Writer, repository: Repository, command: Pitr) -> None:
    other = Writer(repository, VMName("33333333-0000-4000-8000-000000000003", "db"))
    other.add("1m:A", full=True, point=NOW - 20 * DAY)
    other.add("1m:B", point=NOW - 10 * DAY)
    both, of_one = command.json("stats"), command.json("stats", "web")
    assert [each["vm"]["name"] for each in both["vms"]] == ["db", "web"]
    assert [each["vm"]["name"] for each in of_one["vms"]] == ["web"]
    assert of_one["total"]["growth_bytes_per_day"] == both["vms"][1]["growth_bytes_per_day"]
    growth = both["total"]["growth_bytes_per_day"]
    assert growth > of_one["total"]["growth_bytes_per_day"]
    assert of_one["total"]["full_in_days"] == pytest.approx(of_one["total"]["free_bytes"] / growth)


def test_what_interrupted_runs_left_is_counted_as_prune_does(writer: Writer, command: Pitr) -> None:
    left = (
        command.repository / "blobs" / "22222222-0000-4000-8000-000000000009" / f"{uuid.uuid4()}.sparse.zst"
    )
    left.parent.mkdir()
    left.write_bytes(bytes(5000))
    old = (NOW - 2 * DAY).timestamp()
    os.utime(left, (old, old))
    (left.parent / f"{uuid.uuid4()}.sparse.zst").write_bytes(bytes(7000))
    assert command.json("stats")["total"]["unreferenced_bytes"] is None
    assert command.json("stats", "--keep-last", "100")["total"]["unreferenced_bytes"] == 5000
    assert "unreferenced objects" in command("stats", "--keep-last", "100").stdout
    planned = command.json("prune", "--keep-last", "100", "--dry-run")
    assert planned["removed"] == [] and planned["freed_bytes"] == 5000


def test_an_empty_repository_has_no_figures(command: Pitr) -> None:
    assert "no points" in command("stats").stdout
    assert command.json("stats")["vms"] == []
