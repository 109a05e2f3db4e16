# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies expect: the age of the newest point, and the next run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from pitr import times
from pitr.errors import ProgramFailed
from pitr.jobs.policy_run.policy import Policy
from pitr.jobs.schedule.install import UnitFolder
from pitr.jobs.schedule.next_runs import next_runs
from pitr.jobs.status.expected import ExpectedRuns
from pitr.lab import Lab
from pitr.model import VMName
from pitr.repository import Repository
from tests.jobs.status.histories import store
from tests.jobs.status.test_status import DB, WEB, hours_ago, vms
from tests.support.pitr import Pitr
from tests.support.policies import add_vm, configure

pytestmark = pytest.mark.usefixtures("quick_disk")

DAY = timedelta(days=1)


def _with_policy(command: Pitr, folder: Path, text: str) -> Pitr:
    config = folder / "config.toml"
    config.write_text(text)
    return command.with_environment(PITR_CONFIG=str(config))


def test_the_policy_of_a_vm_tells_how_old_it_may_be(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    store(repository, [], vm=WEB, start=hours_ago(30))
    store(repository, [], vm=DB, start=hours_ago(30))
    nightly = '[policy.nightly]\nvms = ["web1"]\nmax_age = "1d"\n'
    found = vms(_with_policy(command, tmp_path, nightly), code=1)
    assert [(name, vm["state"]) for name, vm in found.items()] == [("web1", "critical"), ("db1", "ok")]
    # The option replaces what policies say.
    vms(_with_policy(command, tmp_path, nightly), "--max-age", "2d")
    everything = '[policy.all]\nall = true\nexclude = ["db*"]\nmax_age = "1d"\n[policy.weekly]\nall = true\n'
    found = vms(_with_policy(command, tmp_path, everything), code=1)
    assert found["web1"]["state"] == "critical" and found["db1"]["state"] == "ok"


def test_the_shortest_age_of_all_policies_counts() -> None:
    policies = [
        Policy.of("one", {"all": True, "max_age": "3d"}),
        Policy.of("two", {"vms": ["web1"], "max_age": "1d"}),
        Policy.of("three", {"tags": ["gold"], "max_age": "2d"}),
        Policy.of("four", {"all": True, "exclude_tags": ["test"], "max_age": "2d"}),
    ]
    expected = ExpectedRuns(policies[:3], {"three": frozenset({"vm-db"})})
    assert expected.of(WEB).max_age == DAY
    assert expected.of(DB).max_age == 2 * DAY
    assert expected.of(VMName("x", "x")).max_age == 3 * DAY
    # Before the first run, nobody knows which VMs have the tag to exclude.
    assert ExpectedRuns(policies[3:]).of(DB).max_age == 2 * DAY
    assert ExpectedRuns(policies[3:], {"four": frozenset({"vm-web"})}).of(DB).max_age is None


def test_the_last_run_tells_which_vms_have_a_tag(lab: Lab, pitr: Pitr) -> None:
    gold, other = add_vm(lab, "gold1", "gold"), add_vm(lab, "other1")
    configure(pitr, '[policy.nightly]\ntags = ["gold"]\nmax_age = "1h"\n')
    lab.clock.set(hours_ago(3).astimezone())
    pitr.backup(other.name)
    pitr.json("run")
    found = vms(pitr, code=1)
    assert (found[gold.name]["state"], found[other.name]["state"]) == ("critical", "ok")


def _timers(folder: Path, answer: str, *files: str) -> UnitFolder:
    for file in files:
        (folder / file).write_text("")

    def run(command: Sequence[str]) -> str:
        assert command[:4] == ["systemctl", "show", "--property", "Id,NextElapseUSecRealtime"]
        asked.append(list(command[4:]))
        return answer

    asked: list[list[str]] = []
    return UnitFolder(folder, ("systemctl",), run)


def test_systemd_tells_when_a_policy_runs_next(tmp_path: Path) -> None:
    answer = (
        "Id=pitr-nightly.timer\nNextElapseUSecRealtime=Sat 2026-11-28 22:00:00 CET\n\n"
        "Id=pitr-weekly.timer\nNextElapseUSecRealtime=\n\n"
        "Id=pitr.timer\nNextElapseUSecRealtime=Sat 2026-11-28 21:00:00 CET\n"
    )
    files = ("pitr-nightly.timer", "pitr-weekly.timer", "pitr.timer")
    found = next_runs(_timers(tmp_path, answer, *files), ["nightly", "weekly", "default"])
    assert {name: f"{time:%Y-%m-%d %H:%M}" for name, time in found.items()} == {
        "nightly": "2026-11-28 22:00",
        "default": "2026-11-28 21:00",
    }


def test_without_a_timer_systemd_is_not_asked(tmp_path: Path) -> None:
    def fail(command: Sequence[str]) -> str:
        raise AssertionError(command)

    assert next_runs(UnitFolder(tmp_path, ("systemctl",), fail), ["nightly"]) == {}
    assert next_runs(UnitFolder(tmp_path / "no", ("systemctl",), fail), ["nightly"]) == {}

    def refuse(command: Sequence[str]) -> str:
        raise ProgramFailed("no bus")

    (tmp_path / "pitr-nightly.timer").touch()
    assert next_runs(UnitFolder(tmp_path, ("systemctl",), refuse), ["nightly"]) == {}


def test_the_table_shows_the_next_run(
    repository: Repository, command: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pitr.jobs.schedule import next_runs as module

    store(repository, [], vm=WEB)
    store(repository, [], vm=DB)
    run = times.from_text("2026-11-28T22:00:00Z")
    monkeypatch.setattr(module, "next_runs", lambda folder, policies: dict.fromkeys(policies, run))
    policy = _with_policy(command, tmp_path, '[policy.nightly]\nvms = ["web1"]\n')
    shown = policy("status").stdout
    assert "Next run" in shown and shown.count("2026-11-28 22:00") == 1
