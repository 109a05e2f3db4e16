# SPDX-License-Identifier: GPL-2.0-or-later
"""Which point --at and --point name: the same for every command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr import times
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer, record_path

#: What needs a point, without saying which one.
_NEEDS_A_POINT = [
    ("restore", "--to-file", "OUT"),
    ("export", "--to", "OUT"),
    ("serve", "--run", "exit 0"),
    ("files", "ls"),
]
_KNOWS_THE_NEWEST = [("drill", "--digests-only"), ("verify",)]


def _words(words: tuple[str, ...], tmp_path: Path) -> list[str]:
    return [str(tmp_path / "out") if word == "OUT" else word for word in words]


@pytest.mark.parametrize("words", _NEEDS_A_POINT, ids=" ".join)
def test_one_of_at_and_point_is_needed(command: Pitr, words: tuple[str, ...], tmp_path: Path) -> None:
    complaint = command(*_words(words, tmp_path), code=2).complaint
    assert "needs --at or --point. Give --at 2020-06-30T22:00, or --point" in complaint


@pytest.mark.parametrize("words", _NEEDS_A_POINT + _KNOWS_THE_NEWEST, ids=" ".join)
def test_both_exclude_each_other(command: Pitr, words: tuple[str, ...], tmp_path: Path) -> None:
    complaint = command(*_words(words, tmp_path), "--at", "now", "--point", "1c2d", code=2).complaint
    assert "--at and --point exclude each other" in complaint


@pytest.mark.parametrize("words", _NEEDS_A_POINT + _KNOWS_THE_NEWEST, ids=" ".join)
def test_an_older_point_never_stands_in_for_a_lost_one(
    command: Pitr, repository: Repository, words: tuple[str, ...], tmp_path: Path
) -> None:
    writer = Writer(repository)
    first, second = writer.add("64k:A"), writer.add("64k:B")
    record_path(repository, second).write_bytes(b"damaged")
    # What the catalog has never known is not missed in it.
    (repository.path / "catalog.db").unlink()
    given = _words(words, tmp_path)
    refused = command(*given, "--at", "now", code=3)
    assert second.backup_id in refused.complaint and not (tmp_path / "out").exists()
    command(*given, "--point", first.backup_id)


@pytest.fixture
def nightly(command: Pitr, repository: Repository) -> tuple[Pitr, list[Backup]]:
    """The points of a job that starts at 22:00 in Berlin: it makes them some seconds later."""
    writer = Writer(repository)
    points = [
        writer.add("64k:A", point=datetime(2026, 11, day, 21, 0, 7, 250_000, tzinfo=UTC))
        for day in (23, 24, 25)
    ]
    return command.with_environment(TZ="Europe/Berlin"), points


def _restored(command: Pitr, at: str) -> Any:
    return command.json("restore", "--at", at, "--to-file", "/tmp/none.raw", "--dry-run")  # noqa: S108


@pytest.mark.parametrize(
    ("at", "number", "age_s"),
    [
        ("2026-11-25T22:00", 2, 0),
        ("2026-11-25T22:00:07", 2, 0),
        ("2026-11-25T22:00:06", 1, 24 * 3600 - 1.25),
        ("2026-11-25 22:00:07 CET", 2, 0),
        ("@1795640407", 2, 0),
        ("2026-11-25T21:00Z", 2, 0),
        ("2026-11-25", 2, 0),
        ("2026-11-24", 1, 0),
        ("2026-11-25T21:59", 1, 23 * 3600 + 58 * 60 + 52.75),
        ("2026-11-26", 2, 2 * 3600 - 7.25),
        ("now", 2, None),
    ],
)
def test_the_22_00_job_s_point_is_the_one_of_22_00(
    nightly: tuple[Pitr, list[Backup]], at: str, number: int, age_s: float | None
) -> None:
    command, points = nightly
    document = _restored(command, at)
    assert document["point"]["backup_id"] == points[number].backup_id
    assert age_s is None or document["age_s"] == pytest.approx(age_s)


def test_times_that_people_type_name_the_points_of_their_days(command: Pitr, repository: Repository) -> None:
    writer = Writer(repository)
    day, second = timedelta(days=1), timedelta(seconds=1)
    midnight = times.now().replace(hour=0, minute=0, second=0, microsecond=0)
    points = [writer.add("64k:A", point=midnight - days * day + second) for days in (8, 2, 1)]
    newest = writer.add("64k:A", point=max(times.now() - 3 * second, midnight + 2 * second))
    command = command.with_environment(TZ="UTC")
    two_days_ago = f"{midnight - 2 * day:%A}"
    typed = {
        "today": newest,
        "yesterday": points[2],
        "yesterday 00:00": points[2],
        two_days_ago: points[1],
        two_days_ago[:3].lower(): points[1],
        f"{midnight:%A}": points[0],
        f"{midnight - day:%Y-%m-%d}": points[2],
        "-5d": points[0],
        "5 days ago": points[0],
        "latest": newest,
    }
    for at, point in typed.items():
        assert _restored(command, at)["point"]["backup_id"] == point.backup_id, at


def test_now_takes_a_point_that_a_fast_engine_clock_dated_ahead(
    command: Pitr, repository: Repository
) -> None:
    writer = Writer(repository)
    writer.add("64k:A", point=times.now() - timedelta(hours=1))
    ahead = writer.add("64k:B", point=times.now() + timedelta(minutes=7))
    for at in ("now", "latest"):
        document = _restored(command, at)
        assert (document["point"]["backup_id"], document["age_s"]) == (ahead.backup_id, 0)
    assert command.json("drill", "--digests-only")["point"]["backup_id"] == ahead.backup_id


def test_the_first_line_names_a_later_point_that_is_much_nearer(
    nightly: tuple[Pitr, list[Backup]],
) -> None:
    command, points = nightly
    words = ("restore", "--to-file", "/tmp/none.raw", "--dry-run", "--at")  # noqa: S108
    first = command(*words, "2026-11-25T21:55").stderr.splitlines()[0]
    assert points[1].backup_id in first and "23 h 54 min before 2026-11-25 21:55" in first
    assert "the next later point is 2026-11-25 22:00:07 CET, which is much nearer" in first
    assert first.endswith("it takes --at 2026-11-25T22:00:07")
    assert points[2].backup_id in command(*words, "2026-11-25T22:00:07").stderr
    # A point in the middle of the night is no better choice.
    assert "nearer" not in command(*words, "2026-11-25T08:00").stderr
    assert ", the newest within 2026-11-25" in command(*words, "2026-11-25").stderr


@pytest.mark.parametrize("words", _NEEDS_A_POINT + _KNOWS_THE_NEWEST, ids=" ".join)
def test_each_command_refuses_what_has_several_readings(
    command: Pitr, words: tuple[str, ...], tmp_path: Path
) -> None:
    refused = command(*_words(words, tmp_path), "--at", "06/07/2026", code=2).complaint
    assert "2026-07-06" in refused and "2026-06-07" in refused
    assert "--point 1c2d3e4f" in command(*_words(words, tmp_path), "--at", "1c2d3e4f", code=2).complaint


def test_since_takes_a_time_or_an_id(nightly: tuple[Pitr, list[Backup]], tmp_path: Path) -> None:
    command, points = nightly
    ids = (points[1].backup_id, points[1].backup_id[:8])
    for number, since in enumerate(("2026-11-24", "2026-11-24T22:00", *ids)):
        done = command.json(
            "export", "--at", "2026-11-25", "--since", since, "--to", tmp_path / f"{number}.sparse"
        )
        assert done["export"]["since_backup_id"] == points[1].backup_id
        # These disks hold no file system.
        shown = command("files", "diff", "--at", "2026-11-25", "--since", since, code=1).stderr
        assert points[1].backup_id in shown
    early = command("export", "--at", "now", "--since", "2026-11-22", code=4).complaint
    assert "at or before 2026-11-22" in early and "take it with --at 2026-11-23T22:00:07" in early


def test_diff_reads_times_as_a_restore_does(nightly: tuple[Pitr, list[Backup]]) -> None:
    command, points = nightly
    document = command.json("diff", "--at", "2026-11-24", "--at", "2026-11-25T22:00")
    assert [document[which]["backup_id"] for which in ("before", "after")] == [
        point.backup_id for point in points[1:]
    ]


def test_a_difference_is_not_one_to_an_older_point_either(command: Pitr, repository: Repository) -> None:
    writer = Writer(repository)
    points = [writer.add("64k:A"), writer.add("64k:B"), writer.add("64k:C")]
    record_path(repository, points[2]).write_bytes(b"damaged")
    (repository.path / "catalog.db").unlink()
    first, second = (point.backup_id for point in points[:2])
    assert points[2].backup_id in command("diff", "--point", first, "--at", "now", code=3).complaint
    refused = command("files", "diff", "--point", first, "--since", "now", code=3)
    assert points[2].backup_id in refused.complaint
    command("diff", "--point", first, "--point", second)
