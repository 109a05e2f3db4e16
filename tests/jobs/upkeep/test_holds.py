# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr hold`, `pitr release` and `pitr note`: what people say about points, and what it protects."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pitr import times
from pitr.errors import NoSuchPoint, UsageError
from pitr.jobs.holds import end_of, marking
from pitr.repository import Repository, marks, names, rollbacks
from pitr.repository.marks import Hold
from tests.support.pitr import Pitr
from tests.support.points import Writer, flip_bit

NOW = times.now()


@pytest.fixture
def writer(repository: Repository) -> Writer:
    """Five fulls, a day apart, the newest of now."""
    writer = Writer(repository)
    for days in range(4, -1, -1):
        writer.add("64k:A", full=True, point=NOW - timedelta(days=days))
    return writer


def test_prune_keeps_a_held_point_and_what_it_is_based_on(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    for number, content in enumerate(("64k:A", "64k:B", "64k:C", "64k:D")):
        writer.add(content, full=number in (0, 3), point=NOW - timedelta(days=9 - number))
    full, held, last, newest = writer.backups
    document = command.json("hold", held.backup_id[:8])
    assert document["point"]["hold"] == {"until": None} and document["point"]["backup_id"] == held.backup_id
    planned = command.json("prune", "--keep-last", "1", "--no-consolidate", "--dry-run")
    done = command.json("prune", "--keep-last", "1", "--no-consolidate")
    for prune in (planned, done):
        reasons = {point["backup_id"]: point["kept_by"] for point in prune["kept"]}
        assert reasons == {
            newest.backup_id: ["keep-last 1"],
            held.backup_id: ["held"],
            full.backup_id: [f"needed by {held.backup_id}"],
        }
        assert [point["backup_id"] for point in prune["removed"]] == [last.backup_id]
    command("release", held.backup_id)
    assert len(command.json("prune", "--keep-last", "1")["removed"]) == 2
    # The marks of removed points are gone, too.
    assert list(repository.store.list(names.MARKS)) == []


def test_forget_refuses_a_held_point(writer: Writer, command: Pitr) -> None:
    held = writer.backups[1]
    command("hold", held.backup_id, "--until", "30d")
    for ask in ([held.backup_id], [held.vm.name, "--all"]):
        refused = command("forget", *ask, code=2)
        assert "held until" in refused.complaint and "pitr release" in refused.complaint
        command("forget", *ask, "--dry-run", code=2)
    assert len(command.json("list")["points"]) == 5
    command("release", held.vm.name, "--point", held.backup_id)
    command("forget", held.backup_id)


def test_a_hold_ends_by_itself(writer: Writer, repository: Repository, command: Pitr) -> None:
    held = writer.backups[0]
    marks.hold(repository.store, held, Hold(NOW - timedelta(seconds=1)))
    assert command.json("show", held.backup_id)["point"]["hold"] is None
    assert len(command.json("prune", "--keep-last", "1")["removed"]) == 4


def test_a_second_hold_or_note_replaces_the_first(writer: Writer, command: Pitr) -> None:
    point = writer.backups[2].backup_id
    command("hold", point, "--until", "2035-05-05")
    assert command.json("hold", point, "--until", "2040-01-01T10:00Z")["point"]["hold"] == {
        "until": "2040-01-01T10:00:59.999999Z"
    }
    command("note", point, "first")
    assert command.json("note", point, " before the update\x1b[31m ")["point"]["note"] == (
        "before the update\x1b[31m"
    )
    shown = command("show", point).stdout
    assert "held until 2040-01-01 10:00:59" in shown and "before the update" in shown and "\x1b" not in shown
    command("catalog", "rebuild")
    listed = {each["backup_id"]: each for each in command.json("list")["points"]}
    assert listed[point]["note"].startswith("before") and listed[point]["hold"]["until"].startswith("2040")
    assert sum(each["hold"] is not None or each["note"] is not None for each in listed.values()) == 1
    table = command("list", "--note").stdout
    assert "held" in table and "before the update" in table and "\x1b" not in table
    assert "before the update" not in command("list").stdout
    assert command.json("note", point, "")["point"]["note"] is None


def test_a_point_is_named_by_vm_and_time_too(writer: Writer, command: Pitr) -> None:
    vm = writer.backups[0].vm.name
    at = times.to_text(writer.backups[3].point)
    assert command.json("hold", vm, "--at", at)["point"]["backup_id"] == writer.backups[3].backup_id
    assert command.json("note", vm, "the newest")["point"]["backup_id"] == writer.backups[4].backup_id
    assert "not held" in command("release", vm).stderr
    command("hold", str(uuid.uuid4()), code=4)
    command("note", vm, "x" * 4001, code=2)


@pytest.mark.parametrize("text", ["2020-01-01", "yesterday", "2020-06-30T22:00", "now", "0d"])
def test_the_past_is_no_end(writer: Writer, command: Pitr, text: str) -> None:
    refused = command("hold", writer.backups[0].backup_id, "--until", text, code=2)
    assert "past" in refused.complaint
    assert command.json("show", writer.backups[0].backup_id)["point"]["hold"] is None


def test_the_end_is_a_day_a_time_or_a_span() -> None:
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert end_of("30d", now) == now + timedelta(days=30)
    assert end_of("2026-11-29T10:00:05Z", now).replace(microsecond=0) == datetime(
        2026, 11, 29, 10, 0, 5, tzinfo=UTC
    )
    # Today ends tonight.
    assert end_of("2026-11-28", now) > now
    with pytest.raises(UsageError):
        end_of("some day", now)


@pytest.mark.parametrize("text", ["tomorrow", "999999y", "30"])
def test_an_end_that_cannot_be_read_is_refused_with_advice(writer: Writer, command: Pitr, text: str) -> None:
    refused = command("hold", writer.backups[0].backup_id, "--until", text, code=2).complaint
    assert "--until" in refused and "--at" not in refused
    assert command.json("show", writer.backups[0].backup_id)["point"]["hold"] is None


def test_a_point_is_not_held_while_it_may_be_removed(
    writer: Writer, repository: Repository, command: Pitr
) -> None:
    backup = writer.backups[0]
    with Repository.open(repository.location) as other, other.removing_from_vm(backup.vm):
        command("hold", backup.backup_id, code=5)
        command("note", backup.backup_id, "text", code=5)
        assert "--wait-lock" in command("hold", backup.backup_id, code=5).complaint
    with Repository.open(repository.location) as reader, reader.reading_vm(backup.vm):
        command("hold", backup.backup_id)
    # A removal that ended between the choice and the lock.
    other_point = writer.backups[1]
    command("forget", other_point.backup_id)
    with pytest.raises(NoSuchPoint), marking(repository, other_point):
        raise AssertionError("the point is gone")


def test_a_damaged_hold_still_holds(writer: Writer, command: Pitr) -> None:
    held = writer.backups[0]
    command("hold", held.backup_id, "--until", "1d")
    [path] = command.repository.glob("marks/*/*/*-hold.json")
    flip_bit(path, 20)
    assert command.json("show", held.backup_id)["point"]["hold"] == {"until": None}


def test_a_clock_that_went_back_does_not_bring_an_old_mark_back(
    writer: Writer, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backup = writer.backups[0]
    marks.note(repository.store, backup, "first")
    monkeypatch.setattr(times, "now", lambda: NOW - timedelta(days=400))
    marks.note(repository.store, backup, "second")
    assert marks.of_vm(repository.store, None)[backup.backup_id].note == "second"


def test_a_list_can_be_shortened(writer: Writer, command: Pitr) -> None:
    ids = [backup.backup_id for backup in reversed(writer.backups)]

    def listed(*options: str) -> list[str]:
        return [point["backup_id"] for point in command.json("list", *options)["points"]]

    assert listed("--last", "2") == ids[:2]
    assert listed("--since", times.to_text(NOW - timedelta(days=2, hours=1))) == ids[:3]
    assert listed("--since", times.to_text(NOW - timedelta(days=2, hours=1)), "--last", "1") == ids[:1]
    table = command("list", "--last", "1").stdout
    assert ids[0][:8] in table and ids[1][:8] not in table
    command("list", "--last", "0", code=2)


@pytest.mark.parametrize("state", ["swap", "in place"])
def test_an_unfinished_rollback_holds_its_two_points_until_it_ends(
    writer: Writer, repository: Repository, command: Pitr, state: str
) -> None:
    before, back_to = writer.backups[-2], writer.backups[0]
    ids = (before.backup_id, back_to.backup_id)
    if state == "swap":
        left = rollbacks.leave(repository.store, before.vm.id, [("old", "new")], *ids)
    else:
        begun = rollbacks.begin(repository.store, before.vm.id, ["disk"], *ids)
    kept = command.json("prune", "--keep-last", "1")["kept"]
    assert {point["backup_id"] for point in kept if point["hold"] == {"until": None}} == set(ids)
    assert "--continue" in command("release", back_to.backup_id, code=2).complaint
    assert "--continue" in command("forget", back_to.backup_id, code=2).complaint
    if state == "swap":
        rollbacks.swapped(repository.store, left)
    else:
        begun[0].end(repository.store)
    assert len(command.json("prune", "--keep-last", "1")["removed"]) == 2
