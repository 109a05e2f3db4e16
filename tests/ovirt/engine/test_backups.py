# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pitr.errors import CheckpointGone, EngineBusy, EngineError, NoSuchDisk, NoSuchVM
from pitr.model import Mode
from pitr.ovirt.engine import VM, BackupDisk, BackupRequest, Engine, RunningBackup, backups, start_backup
from pitr.ovirt.engine.started_backup import point_interval
from tests.support.scripted_engine import DONE, DROP, MISSING, Answer, Script, fault

B = "/vms/v1/backups"
ONE = f"{B}/b1"
BUSY = fault(409, "[Cannot backup VM. The VM is during a backup operation.]")
CREATED = "2020-06-30T21:59:00.000+02:00"
READY_AT = "2020-06-30T22:00:00.500+02:00"
LATER = "2020-06-30T22:05:00.000+02:00"


def backup(
    phase: str, modified: str = READY_AT, more: str = "<to_checkpoint_id>c2</to_checkpoint_id>"
) -> str:
    return (
        f'<backup id="b1"><creation_date>{CREATED}</creation_date>'
        f'<modification_date>{modified}</modification_date><phase>{phase}</phase><vm id="v1"/>{more}</backup>'
    )


def disks(*modes: tuple[str, str, str]) -> str:
    return (
        "<disks>"
        + "".join(
            f'<disk id="{disk_id}"><format>{kind}</format>'
            + (f"<backup_mode>{mode}</backup_mode>" if mode else "")
            for disk_id, kind, mode in modes
        )
        .replace("<disk id", "</disk><disk id")
        .removeprefix("</disk>")
        + ("</disk>" if modes else "")
        + "</disks>"
    )


@pytest.fixture
def good(script: Script) -> Script:
    """An engine on which a live incremental backup succeeds."""
    script.on("GET", "/vms/v1", '<vm id="v1"><name>web1</name><status>up</status></vm>')
    script.on("POST", B, Answer(201, backup("initializing", more="")))
    script.on("GET", ONE, backup("initializing", more=""), backup("odd", more=""), backup("ready"))
    script.on("GET", f"{ONE}/disks", disks(("d1", "cow", "incremental"), ("d2", "raw", "full")))
    script.on(
        "GET",
        "/vms/v1/checkpoints/c2",
        '<checkpoint id="c2"><parent_id>c1</parent_id><state>created</state>'
        "<creation_date>2020-06-30T19:59:30Z</creation_date></checkpoint>",
    )
    finalizable(script)
    return script


def finalizable(script: Script, end: str = "succeeded") -> None:
    def begin() -> None:
        script.on("GET", ONE, backup("finalizing", LATER), backup(end, LATER))

    script.on("POST", f"{ONE}/finalize", Answer(200, DONE.body, then=begin))


def start(engine: Engine, *disk_ids: str, **changes: Any) -> RunningBackup:
    vm = VM("v1", "web1", True, "up", None, None, None)
    waits: dict[str, Any] = {"timeout_s": 5.0}
    waits |= {name: changes.pop(name) for name in ("busy_wait_s", "timeout_s") if name in changes}
    values: dict[str, Any] = {"from_checkpoint_id": "c1"} | changes
    return start_backup(engine, vm, BackupRequest(disk_ids or ("d1", "d2"), "b1", **values), **waits)


def test_a_backup_is_ready_when_entered_and_finalized_when_left(engine: Engine, good: Script) -> None:
    with start(engine, description="x" * 2000) as running:
        started = running.started
        running.check_still_ready()
        assert good.asked("POST", f"{ONE}/finalize") == 0
    assert running.succeeded is True
    assert started.disks == (BackupDisk("d1", True), BackupDisk("d2", False))
    assert (started.mode, started.checkpoint_id, started.from_checkpoint_id) == ("live", "c2", "c1")
    assert started.lo == datetime(2020, 6, 30, 19, 59, 30, tzinfo=UTC)
    assert started.hi == started.ready_date == datetime(2020, 6, 30, 20, 0, 0, 500000, tzinfo=UTC)
    body = next(body for body in good.bodies if "<backup" in body)
    assert "<from_checkpoint_id>c1</from_checkpoint_id>" in body and 'id="b1"' in body
    assert f"<description>{'x' * 1024}</description>" in body


def test_consistency_is_requested_only_when_required(engine: Engine, good: Script) -> None:
    good.on("POST", rf"{B}\?require_consistency=true", Answer(201, backup("initializing", more="")))
    with start(engine, require_consistency=True):
        pass
    assert good.asked("POST", rf"{B}\?require_consistency=true") == 1


def test_a_late_checkpoint_is_waited_for_and_the_first_ready_date_kept(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, backup("ready", more=""), backup("ready", LATER, more=""), backup("ready", LATER))
    with start(engine) as running:
        assert running.started.checkpoint_id == "c2"
        assert running.started.hi == datetime(2020, 6, 30, 20, 0, 0, 500000, tzinfo=UTC)


def test_raw_disks_get_no_checkpoint_and_pitr_waits_for_none(
    engine: Engine, good: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    good.on("GET", ONE, backup("ready", more=""))
    good.on("GET", f"{ONE}/disks", disks(("d2", "raw", "full")))
    with start(engine, "d2", from_checkpoint_id=None) as running:
        assert running.started.checkpoint_id is None
        assert running.started.lo == datetime(2020, 6, 30, 19, 59, tzinfo=UTC)
    good.on(
        "GET",
        "/disks/d2",
        '<disk id="d2"><provisioned_size>512</provisioned_size><format>raw</format></disk>',
    )
    good.on("GET", f"{ONE}/disks", '<disks><disk id="d2"><backup_mode>full</backup_mode></disk></disks>')
    good.on("GET", ONE, backup("ready", more=""))
    with start(engine, "d2", from_checkpoint_id=None) as running:
        assert running.started.checkpoint_id is None
    monkeypatch.setattr(backups, "_LATE_S", 0.1)
    good.on("GET", ONE, backup("ready", more=""))
    good.on("GET", f"{ONE}/disks", disks(("d1", "cow", "")))
    with start(engine, "d1", from_checkpoint_id=None) as running:
        assert running.started.checkpoint_id is None
        assert running.started.disks == (BackupDisk("d1", False),)


def test_a_backup_with_a_snapshot_is_hybrid_and_dated_by_its_checkpoint(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, backup("ready", more='<to_checkpoint_id>c2</to_checkpoint_id><snapshot id="s"/>'))
    with start(engine) as running:
        assert running.started.mode == "hybrid"
        assert running.started.lo == datetime(2020, 6, 30, 19, 59, tzinfo=UTC)
        assert running.started.hi == datetime(2020, 6, 30, 19, 59, 30, tzinfo=UTC)


def test_a_vm_that_is_down_is_backed_up_cold(engine: Engine, good: Script) -> None:
    good.on("GET", "/vms/v1", '<vm id="v1"><name>web1</name><status>down</status></vm>')
    with start(engine) as running:
        assert running.started.mode == "cold"


def test_the_interval_of_a_point_never_ends_before_it_starts() -> None:
    early, late = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
    assert point_interval(Mode.LIVE, early, early, late) == (early, early)
    assert point_interval(Mode.HYBRID, late, late, early) == (early, early)
    assert point_interval(Mode.COLD, early, late, None) == (early, late)


def test_a_disk_that_the_backup_omits_is_an_error(
    engine: Engine, good: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_LATE_S", 0.1)
    with (
        pytest.raises(EngineError, match=r"does not cover the requested disks d3"),
        start(engine, "d1", "d3"),
    ):
        pass
    assert good.asked("POST", f"{ONE}/finalize") == 1


def test_after_a_lost_answer_pitr_finds_the_backup_by_its_id(engine: Engine, good: Script) -> None:
    good.on("POST", B, DROP)
    with start(engine) as running:
        assert running.started.id == "b1"


def test_a_request_that_was_lost_is_sent_again(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, MISSING)

    def arrived() -> None:
        good.on("GET", ONE, backup("ready"))

    down = Answer(503, "<html>", "text/html")
    good.on("POST", B, down, Answer(201, backup("initializing", more=""), then=arrived))
    with start(engine) as running:
        assert running.started.id == "b1"
    assert good.asked("POST", B) == 2


def test_a_request_that_the_sdk_sends_twice_does_not_fail(engine: Engine, good: Script) -> None:
    good.on("POST", B, BUSY)
    with start(engine) as running:
        assert running.started.id == "b1"


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            fault(400, "[Cannot backup VM. Checkpoint ID c1 doesn't exist.]"),
            CheckpointGone,
            "c1 doesn't exist",
        ),
        (fault(400, "[Checkpoint ID c1 is invalid and should be removed.]"), CheckpointGone, "is invalid"),
        (fault(400, "[]"), CheckpointGone, "gives no reason"),
        (
            fault(409, "[ACTION_TYPE_FAILED_INCREMENTAL_BACKUP_DISABLED_FOR_DISKS]"),
            CheckpointGone,
            "INCREMENTAL_BACKUP_DISABLED",
        ),
        (fault(400, "[ACTION_TYPE_FAILED_MIXED_INCREMENTAL]"), CheckpointGone, "MIXED"),
        (BUSY, EngineBusy, "during a backup operation"),
        (fault(409, "[Cannot backup VM. The following disks are locked: d1.]"), EngineBusy, "locked"),
        (
            fault(409, "[Cannot backup VM. VM is previewing a Snapshot.]"),
            EngineError,
            "previewing a Snapshot",
        ),
        (fault(409, "[The following disks are not active on VM web1: d1]"), EngineError, "not active"),
        (fault(400, "[Cannot backup VM: disk(s) ID(s) does not exist: d1]"), NoSuchDisk, "does not exist"),
        (MISSING, NoSuchVM, "web1"),
    ],
)
def test_each_refusal_has_its_type(
    engine: Engine, good: Script, answer: Answer, error: type[Exception], text: str
) -> None:
    good.on("GET", ONE, MISSING)
    good.on("POST", B, answer)
    with pytest.raises(error, match=text) as caught, start(engine):
        pass
    assert type(caught.value) is error or error is EngineError
    assert not isinstance(caught.value, CheckpointGone) or error is CheckpointGone
    assert good.asked("POST", f"{ONE}/finalize") == 0


def test_without_a_checkpoint_the_same_refusal_is_final(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, MISSING)
    good.on("POST", B, fault(400, "[]"))
    with pytest.raises(EngineError, match=r"answered 400: Operation Failed") as caught:
        start(engine, from_checkpoint_id=None).__enter__()
    assert not isinstance(caught.value, CheckpointGone)


def test_a_busy_vm_is_waited_for_as_long_as_allowed(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, MISSING)

    def free() -> None:
        good.on("GET", ONE, backup("ready"))

    good.on("POST", B, BUSY, BUSY, Answer(201, backup("initializing", more=""), then=free))
    with start(engine, busy_wait_s=10.0):
        pass
    assert good.asked("POST", B) == 3


def test_a_start_that_fails_takes_the_checkpoint_with_it(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, backup("starting", more=""), backup("failed", more=""))
    with pytest.raises(CheckpointGone, match=r"did not become ready"), start(engine):
        pass
    good.on("GET", ONE, backup("starting", more=""), backup("failed", more=""))
    with pytest.raises(EngineError, match=r"did not become ready") as caught:
        start(engine, from_checkpoint_id=None).__enter__()
    assert not isinstance(caught.value, CheckpointGone)
    assert good.asked("POST", f"{ONE}/finalize") == 0, "a backup that has failed needs no end"


def test_a_phase_that_does_not_come_is_an_error_and_a_finalized_backup(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, backup("odd", more=""))
    with pytest.raises(EngineError, match=r"not ready after 0 s \(it is unknown\)"):
        start(engine, timeout_s=0.2).__enter__()
    assert good.asked("POST", f"{ONE}/finalize") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("first")])
def test_an_error_inside_finalizes_and_comes_out(engine: Engine, good: Script, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, start(engine):
        raise error
    assert caught.value is error
    assert good.asked("POST", f"{ONE}/finalize") == 1
    assert not hasattr(error, "__notes__")


def test_an_interrupt_before_ready_waits_for_ready_and_finalizes(
    engine: Engine, good: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    good.on("GET", ONE, backup("starting", more=""), backup("ready"))
    running = start(engine)
    monkeypatch.setattr(running, "_wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt), running:
        pass
    finalize = good.requests.index(("POST", f"{ONE}/finalize"))
    assert good.requests[:finalize].count(("GET", ONE)) == 2
    assert running.succeeded is True


def test_a_failing_cleanup_is_a_note_on_the_first_error(engine: Engine, good: Script) -> None:
    good.on("POST", f"{ONE}/finalize", fault(403, "[no permission]"))
    with pytest.raises(ValueError, match=r"first") as caught, start(engine):
        raise ValueError("first")
    assert "cannot end backup" in caught.value.__notes__[0]


def test_a_transfer_that_still_runs_is_waited_for(engine: Engine, good: Script) -> None:
    active = fault(409, "[Cannot stop VM backup. There is an active image transfer for VM backup]")

    def begin() -> None:
        good.on("GET", ONE, backup("succeeded", LATER))

    good.on("POST", f"{ONE}/finalize", active, active, Answer(200, DONE.body, then=begin))
    with start(engine) as running:
        pass
    assert running.succeeded and good.asked("POST", f"{ONE}/finalize") == 3
    good.on("GET", ONE, backup("ready"))
    good.on("POST", f"{ONE}/finalize", active)
    with pytest.raises(EngineBusy, match=r"active image transfer"), start(engine, timeout_s=0.2):
        pass


def test_a_backup_that_another_client_ended_is_fine(engine: Engine, good: Script) -> None:
    with start(engine) as running:
        good.on("GET", ONE, backup("succeeded", LATER))
        good.on(
            "POST",
            f"{ONE}/finalize",
            fault(400, "[backup is already in 'succeeded' phase, no need to finalize]"),
        )
    assert running.succeeded is True
    good.on("GET", ONE, backup("ready"))
    with start(engine) as running:
        good.on("GET", ONE, MISSING)
        good.on("POST", f"{ONE}/finalize", MISSING)
    assert running.succeeded is False


def test_a_backup_that_fails_at_its_end_is_reported(engine: Engine, good: Script) -> None:
    finalizable(good, "failed")
    with start(engine) as running:
        pass
    assert running.succeeded is False


@pytest.mark.parametrize("answer", [Answer(body=backup("failed")), MISSING])
def test_a_backup_that_ended_in_the_middle_is_noticed(engine: Engine, good: Script, answer: Answer) -> None:
    with pytest.raises(EngineError, match=r"ended on the engine too early"), start(engine) as running:
        good.on("GET", ONE, answer)
        running.check_still_ready()


def test_a_time_without_a_zone_is_refused(engine: Engine, good: Script) -> None:
    good.on("GET", ONE, backup("ready").replace("+02:00", ""))
    with pytest.raises(EngineError, match=r"without a time zone"), start(engine):
        pass
    assert good.asked("POST", f"{ONE}/finalize") == 1
