# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is: shares to verify, VMs to drill, and fulls that are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.jobs.backup.full_due import full_is_due
from pitr.jobs.policy_run.turns import next_to_drill, share_to_verify
from pitr.jobs.proofs import ReadStream
from pitr.model import Kind, StoredObject, VMName
from pitr.repository import Repository, history
from pitr.repository.history import RunOutcome, StepOutcome, VMOfRun
from tests.support.points import Writer

NOON = datetime(2020, 7, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def one(repository: Repository) -> ReadStream:
    writer = Writer(repository)
    backup = writer.add("64k:A")
    return ReadStream(backup, backup.streams[0], None)


def _stream(one: ReadStream, number: int, size: int, read: datetime | None) -> ReadStream:
    blob = replace(one.stream.own_blob, size=size)
    assert isinstance(blob, StoredObject)
    return ReadStream(one.backup, replace(one.stream, stream_id=str(number), blob=blob), read)


def _in_turn(streams: list[ReadStream]) -> list[ReadStream]:
    return sorted(streams, key=lambda each: each.read or datetime.min.replace(tzinfo=UTC))


def test_with_one_day_everything_is_read(one: ReadStream) -> None:
    streams = [_stream(one, number, 10, NOON if number else None) for number in range(5)]
    assert share_to_verify(_in_turn(streams), DAY, NOON, NOON) == _in_turn(streams)


def test_a_stream_without_stored_bytes_is_never_left_out(one: ReadStream) -> None:
    streams = [_stream(one, 0, 10, None), _stream(one, 1, 10, None), _stream(one, 2, 0, NOON)]
    assert share_to_verify(streams, DAY, NOON, NOON) == streams
    assert [each.stream.stream_id for each in share_to_verify(streams, 2 * DAY, NOON, NOON)] == ["0", "2"]


def test_a_run_after_a_week_reads_the_share_of_a_week(one: ReadStream) -> None:
    streams = [_stream(one, number, 10, None) for number in range(28)]
    assert len(share_to_verify(streams, 28 * DAY, NOON, None)) == 1
    assert len(share_to_verify(streams, 28 * DAY, NOON, NOON - timedelta(hours=1))) == 1
    assert len(share_to_verify(streams, 28 * DAY, NOON, NOON - 7 * DAY)) == 7


@given(
    first=st.lists(st.integers(1, 1000), min_size=1, max_size=20),
    nightly=st.lists(st.integers(1, 1000), min_size=0, max_size=30),
    days=st.integers(2, 12),
)
def test_everything_is_read_within_the_time_whatever_comes_each_night(
    first: list[int], nightly: list[int], days: int
) -> None:
    from pitr.jobs.policy_run.turns import share_to_verify

    class Stream:
        def __init__(self, size: int) -> None:
            self.stored_bytes = size

    every = days * DAY
    # Each stream as (born, stream, last read).
    held: list[tuple[datetime, ReadStream]] = [
        (NOON, ReadStream(None, Stream(size), None))  # type: ignore[arg-type]
        for size in first
    ]
    for night in range(len(nightly) + 2 * days):
        now = NOON + night * DAY
        if night < len(nightly):
            held.append((now, ReadStream(None, Stream(nightly[night]), None)))  # type: ignore[arg-type]
        turn = _in_turn([each for _, each in held])
        chosen = {id(each) for each in share_to_verify(turn, every, now, now - DAY)}
        held = [(born, replace(each, read=now) if id(each) in chosen else each) for born, each in held]
        for born, each in held:
            assert now - (each.read or born) < every


def test_drills_go_round_even_if_drilled_points_are_gone(repository: Repository) -> None:
    writers = {name: Writer(repository, vm=VMName(f"id-{name}", name)) for name in ("a", "b", "c")}
    for writer in writers.values():
        writer.add("64k:A")
    vms = repository.catalog.vms()
    assert [vm.name for vm in next_to_drill(repository, vms, 2)] == ["a", "b"]
    step = StepOutcome("drill", VMOfRun("id-a", "a"), True)
    run = RunOutcome("1", "run", "p", NOON, NOON, 0, None, (step,), "host")
    history.add(repository.store, run)
    assert [vm.name for vm in next_to_drill(repository, vms, 2)] == ["b", "c"]
    assert [vm.name for vm in next_to_drill(repository, vms, 9)] == ["b", "c", "a"]
    assert next_to_drill(repository, [], 2) == []


def test_a_full_is_due_by_its_age(repository: Repository) -> None:
    writer = Writer(repository)
    full = writer.add("64k:A")
    week = timedelta(days=7)
    assert not full_is_due([], week, NOON)
    assert full.kind is Kind.FULL
    assert not full_is_due([full], week, full.point + timedelta(days=6))
    # The run of this week starts a little earlier in the night than that of last week.
    assert full_is_due([full], week, full.point + week - timedelta(minutes=5))
    assert full_is_due([full], week, full.point + week)
