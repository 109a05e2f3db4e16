# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr history`: every run leaves its outcome in the repository, whatever ends it."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr import times
from pitr.errors import EngineError, UsageError
from pitr.jobs.history import RunLog, recorded
from pitr.lab import Lab
from pitr.repository import Repository, history
from pitr.repository.history import Failure, RunOutcome, StepOutcome, VMOfRun
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr, ended, wait_until
from tests.support.s3 import s3_store

WEB = VMOfRun("1", "web1")
DB = VMOfRun("2", "db1")
OUT_OF_REACH = Failure("EngineError", "the engine is unreachable", "Start it.")


def _run(day: int, command: str = "backup", *, code: int = 0, policy: str | None = None) -> RunOutcome:
    end = datetime(2020, 6, 1, 22, tzinfo=UTC) + timedelta(days=day)
    steps = (
        StepOutcome(command, WEB, code == 0, OUT_OF_REACH if code else None),
        StepOutcome(command, DB, True),
    )
    error = OUT_OF_REACH if code else None
    return RunOutcome(
        f"run{day}", command, policy, end - timedelta(minutes=5), end, code, error, steps, "backup1"
    )


def _runs(pitr: Pitr, *options: str) -> Any:
    return pitr.json("history", *options)["runs"]


def test_an_outcome_reads_as_it_was_written(repository: Repository) -> None:
    written = _run(1, "run", code=6, policy="nightly")
    history.add(repository.store, written)
    [stored] = history.newest_first(repository.store)
    assert (stored.ended, stored.command, stored.ok) == (written.ended, "run", False)
    assert history.read(repository.store, stored) == written


def test_the_newest_come_first_over_months_and_the_last_of_a_policy_is_found(repository: Repository) -> None:
    for day in (40, 1, 35):
        history.add(repository.store, _run(day, "run", policy="nightly" if day < 40 else "weekly"))
    history.add(repository.store, _run(45, "verify"))
    assert [run.run_id for run in history.outcomes(repository.store)] == ["run45", "run40", "run35", "run1"]
    last = history.last(repository.store, "run", "nightly")
    assert last is not None and last.run_id == "run35"
    assert history.last(repository.store, "run", "monthly") is None


def test_a_bucket_keeps_outcomes_too(tmp_path: Path) -> None:
    with closing(s3_store(tmp_path)) as store:
        for day in (40, 1, 35):
            history.add(store, _run(day, code=day % 2))
        assert [run.run_id for run in history.outcomes(store)] == ["run40", "run35", "run1"]
        assert [run.run_id for run in history.outcomes(store, failed=True)] == ["run35", "run1"]
        assert history.remove_before(store, datetime(2020, 7, 1, tzinfo=UTC)) == 1
        assert [run.run_id for run in history.outcomes(store)] == ["run40", "run35"]


def test_the_command_selects_by_vm_failure_and_number(repository: Repository, command: Pitr) -> None:
    for day, code in ((1, 0), (2, 6), (3, 0), (4, 1)):
        history.add(repository.store, _run(day, code=code))
    assert [run["run_id"] for run in _runs(command)] == ["run4", "run3", "run2", "run1"]
    assert [run["run_id"] for run in _runs(command, "--failed")] == ["run4", "run2"]
    assert [run["run_id"] for run in _runs(command, "--last", "2", "--vm", "db1")] == ["run4", "run3"]
    assert _runs(command, "--vm", "other") == []
    [run] = _runs(command, "--failed", "--last", "1", "--vm", "1")
    assert run["started"] == "2020-06-05T21:55:00Z" and run["exit_code"] == 1 and not run["ok"]
    assert run["error"] == {
        "type": "EngineError",
        "message": "the engine is unreachable",
        "advice": "Start it.",
    }
    assert run["steps"][0]["vm"] == {"id": "1", "name": "web1"}
    text = command("history", "--last", "1").stdout
    assert "web1, db1" in text and "FAILED 1 of 2" in text and "the engine is unreachable" in text


def test_a_damaged_outcome_hides_no_other(repository: Repository, command: Pitr) -> None:
    for day in (1, 2):
        history.add(repository.store, _run(day))
    newest = next(history.newest_first(repository.store))
    (repository.path / newest.name).write_bytes(b"{}")
    assert [run["run_id"] for run in _runs(command)] == ["run1"]


def test_an_error_is_stored_and_raised(repository: Repository) -> None:
    log = RunLog("backup")
    log.expect([WEB])
    with pytest.raises(EngineError, match="refused"), recorded(log, lambda: repository.path, print):
        raise EngineError("refused", "Ask again.")
    [run] = history.outcomes(repository.store)
    assert (run.exit_code, run.error) == (6, Failure("EngineError", "refused", "Ask again."))
    assert [(step.vm, step.ok, step.error) for step in run.steps] == [(WEB, False, run.error)]


def test_a_repository_that_cannot_be_written_does_not_hide_the_error(repository: Repository) -> None:
    (repository.path / "runs").write_text("in the way")
    told: list[str] = []
    with (
        pytest.raises(EngineError, match="refused"),
        recorded(RunLog("backup"), lambda: repository.path, told.append),
    ):
        raise EngineError("refused")
    assert len(told) == 1 and told[0].startswith("cannot store the outcome of this run: ")


def test_without_a_repository_nothing_is_said(tmp_path: Path) -> None:
    def unnamed() -> Path:
        raise UsageError("no repository is named")

    told: list[str] = []
    for path in (unnamed, lambda: tmp_path):
        with recorded(RunLog("restore"), path, told.append):
            pass
    assert told == []


def test_prune_removes_what_is_older_than_400_days(repository: Repository, command: Pitr) -> None:
    old, young = (times.now() - timedelta(days=days) for days in (401, 399))
    for ended_at in (old, young):
        run = RunOutcome("r", "backup", None, ended_at, ended_at, 0, None, (), "backup1")
        history.add(repository.store, run)
    command("prune", "--keep-last", "1", "--dry-run")
    assert len(_runs(command)) == 2
    command("prune", "--keep-last", "1")
    assert [run["command"] for run in _runs(command)] == ["prune", "backup"]


def test_each_command_leaves_its_outcome(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    point = pitr.backup(vm.name)
    pitr("backup", vm.name, "--dry-run")
    pitr("verify")
    pitr("drill", vm.name)
    pitr("restore", vm.name, "--at", "now", "--to-file", tmp_path / "disk.raw")
    pitr("prune", "--keep-last", "5")
    pitr("list")
    runs = _runs(pitr)
    assert [run["command"] for run in reversed(runs)] == ["backup", "verify", "drill", "restore", "prune"]
    assert all(run["ok"] and run["exit_code"] == 0 and run["error"] is None for run in runs)
    who = {"id": vm.id, "name": vm.name}
    for run in runs:
        steps = [(step["step"], step["vm"], step["ok"], step["backup_id"]) for step in run["steps"]]
        of_point = None if run["command"] == "prune" else point["backup_id"]
        assert steps == ([] if run["command"] == "verify" else [(run["command"], who, True, of_point)])


def test_damage_counts_as_a_failed_run(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 1 * MiB)
    point = pitr.backup(vm.name)
    [blob] = pitr.repository.glob(f"blobs/*/{point['disks'][0]['stream_id']}.sparse.zst")
    blob.unlink()
    pitr("verify", vm.name, code=3)
    [run] = _runs(pitr, "--failed")
    assert (run["command"], run["exit_code"], run["error"]) == ("verify", 3, None)
    assert run["steps"][0]["ok"] is False and "damage" in run["steps"][0]["detail"]


def test_an_unreachable_engine_leaves_a_failed_run_of_the_named_vm(pitr: Pitr, tmp_path: Path) -> None:
    gone = pitr.with_environment(PITR_ENGINE_URL="https://127.0.0.1:9")
    failed = gone("backup", "web1", "--output", "json", code=6)
    [run] = _runs(pitr, "--vm", "web1")
    assert (run["exit_code"], run["error"]) == (6, failed.error)
    assert run["steps"][0]["ok"] is False


def test_each_vm_of_a_run_has_its_own_outcome(pitr: Pitr, lab: Lab) -> None:
    good = make_vm(lab, 1 * MiB)
    pitr("backup", good.name, "missing", code=1)
    [run] = _runs(pitr)
    assert (run["ok"], run["exit_code"], run["error"]) == (False, 1, None)
    by_name = {step["vm"]["name"]: step for step in run["steps"]}
    assert by_name[good.name]["ok"] and by_name[good.name]["backup_id"]
    assert by_name["missing"]["error"]["type"] == "NoSuchVM"


def test_a_stopped_run_says_which_vms_it_did_not_reach(pitr: Pitr, lab: Lab) -> None:
    vms = [make_vm(lab, 1 * MiB) for _ in range(2)]
    lab.engine.phase_lag_s = 30
    with pitr.process("backup", *(vm.name for vm in vms)) as process:
        wait_until(lab.open_backups, "the backup")
        process.send_signal(signal.SIGTERM)
        lab.engine.phase_lag_s = 0.01
        assert ended(process).code == 128 + signal.SIGTERM
    [run] = _runs(pitr)
    assert run["exit_code"] == 128 + signal.SIGTERM and run["error"]["type"] == "FleetInterrupted"
    assert {step["vm"]["name"] for step in run["steps"]} == {vm.name for vm in vms}
    assert not any(step["ok"] for step in run["steps"])


def test_the_outcome_holds_no_secret(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 1 * MiB)
    pitr("backup", vm.name, "--put-command", "false token=s3cret", code=1)
    stored = [path.read_text() for path in pitr.repository.glob("runs/*/*.json")]
    assert len(stored) == 1 and json.loads(stored[0])["exit_code"] == 1
    assert "s3cret" not in stored[0]
