# SPDX-License-Identifier: GPL-2.0-or-later
"""Several VMs in processes: one point for each VM, whoever is killed, and nothing stays open on the engine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pitr.jobs.backup.task_ids import committed, new_backup_id
from pitr.lab import Lab
from pitr.repository import Repository
from pitr.system.machine import processors
from tests.support.lab import nothing_open, three_vms
from tests.support.lab_host import children_of
from tests.support.pitr import Pitr, ended, wait_until

pytestmark = pytest.mark.skipif(processors() == 1, reason="one processor: pitr uses threads")


@pytest.fixture
def vms(lab: Lab) -> list[str]:
    names = three_vms(lab)
    # Readiness takes its time: a signal comes when all wait for it.
    lab.engine.phase_lag_s = 0.3
    return names


def _workers(pid: int) -> list[int]:
    """The processes that carry out backups: the children of the template."""
    return [child for template in children_of(pid) for child in children_of(template)]


def _named(pitr: Pitr) -> list[str]:
    return sorted(point["vm"]["name"] for point in pitr.json("list")["points"])


def test_a_killed_process_is_replaced_and_each_vm_gets_one_point(
    lab: Lab, pitr: Pitr, vms: list[str]
) -> None:
    with pitr.process("backup", *vms, "--jobs", "3", "--output", "json") as process:
        wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
        workers = _workers(process.pid)
        # Not more than processors: each carries out several backups.
        assert 2 <= len(workers) <= min(3, processors())
        os.kill(workers[0], signal.SIGKILL)
        done = ended(process)
    assert done.code == 0, done
    assert sorted(point["vm"]["name"] for point in done.json["backups"]) == vms
    assert "starts the backup again" in done.stderr
    assert "an earlier run had left open" in done.stderr
    assert _named(pitr) == vms
    assert nothing_open(lab)
    assert pitr.json("verify")["ok"]


def test_processes_stop_in_order_when_the_program_is_killed(lab: Lab, pitr: Pitr, vms: list[str]) -> None:
    with pitr.process("backup", *vms, "--jobs", "3") as process:
        wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
        workers = _workers(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers), "their end")
    assert nothing_open(lab)
    assert pitr.json("list")["points"] == []


def test_the_lines_and_errors_of_processes_come_back(
    lab: Lab, pitr: Pitr, vms: list[str], tmp_path: Path
) -> None:
    lab.engine.set_vm(lab.vm("web1").id, previewing=True)
    log = tmp_path / "log"
    with pitr.process(
        "backup", *vms, "nosuch", "--jobs", "4", "--output", "json", "--log-file", log
    ) as process:
        done = ended(process)
    assert done.code == 1
    failed = {item["vm"]: item["error"] for item in done.json["failed"]}
    assert set(failed) == {"web1", "nosuch"}
    assert failed["nosuch"]["type"] == "NoSuchVM" and failed["nosuch"]["advice"]
    assert "previewing" in failed["web1"]["message"]
    assert "taking a full backup of VM web0" in done.stderr
    progress = [line for line in done.stderr.splitlines() if line.startswith('{"progress":')]
    assert any('"backup web2"' in line for line in progress)
    lines = log.read_text().splitlines()
    pids = {line.split("[")[1].split("]")[0] for line in lines}
    assert str(process.pid) in pids and len(pids) > 1
    assert any("VM web0: stored the point" in line for line in lines)


def test_the_second_run_of_a_task_finds_the_point_of_the_first(repository: Repository) -> None:
    ids = {new_backup_id("task") for _ in range(3)}
    assert len(ids) == 3
    assert len({backup_id[:18] for backup_id in ids}) == 1
    assert new_backup_id("other")[:18] != next(iter(ids))[:18]
    assert committed(repository, "vm", "task") is None
