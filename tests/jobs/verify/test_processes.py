# SPDX-License-Identifier: GPL-2.0-or-later
"""A quick check in several processes says what one process says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.verify import stored_data
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.jobs.verify.verified import CheckVMs
from pitr.repository import Repository, findings
from tests.jobs.verify.test_many_points import make_vms
from tests.support.points import index_path, record_path

#: A program with two processors at least, and a repository with many points.
_PROGRAM = """
import os, signal, sys
from pitr.cli import main
from pitr.jobs.verify import processes

processes._MANY_POINTS = 1
processes.machine.processors = lambda: 3
here, checked = os.getpid(), processes.check_vm

def check_vm(repository, vm, *others):
    open(f"{sys.argv[1]}/{vm[0]}.{os.getpid() == here}", "w").close()
    if vm[0].endswith(os.environ.get("KILLED", "none")):
        os.kill(os.getpid(), signal.SIGKILL)
    if vm[0].endswith(os.environ.get("STOPPED", "none")):
        os.kill(here, signal.SIGINT)
        while True:
            others[1](0, 0)
    return checked(repository, vm, *others)

processes.check_vm = check_vm
sys.exit(main.main(["verify", "--quick", "--repo", sys.argv[2], "--output", "json"]))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as repository:
        yield repository


def _run(
    repository: Repository, notes: Path, **environment: str
) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Verify in processes. Return the ended program, and its document if it printed one."""
    notes.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(notes), str(repository.path)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, json.loads(ended.stdout) if ended.stdout else None


def _harm(repository: Repository) -> None:
    """Damage an index, lose all records of a VM, and add a record that is none."""
    first, second, third, _ = make_vms(repository, 4, 3)
    index_path(repository, first.backups[0].streams[0]).unlink()
    for backup in second.backups:
        record_path(repository, backup).unlink()
    record_path(repository, third.backups[0]).with_name("20200101T000000Z-unknown.json").write_bytes(b"{}")


def test_damage_is_the_same_in_processes_also_if_one_is_killed(
    repository: Repository, tmp_path: Path
) -> None:
    _harm(repository)
    ended, document = _run(repository, tmp_path / "notes", KILLED="3")
    assert ended.returncode == 3, ended.stderr
    notes = {note.name.lstrip("0-") for note in (tmp_path / "notes").iterdir()}
    assert {"1.False", "2.False", "3.False", "4.False"} <= notes
    stored = {finding.name for finding in findings.found_in(repository.store)}
    assert stored
    one = verify(repository, Scope(), "quick")
    assert document["checked"]["points"] == one.points == 9
    assert document["checked"]["streams"] == one.streams
    assert [found["message"] for found in document["damage"]] == [found.message for found in one.damage]
    assert {finding.name for finding in findings.found_in(repository.store)} == stored


def test_ctrl_c_stops_the_processes(repository: Repository, tmp_path: Path) -> None:
    _harm(repository)
    ended, document = _run(repository, tmp_path / "notes", STOPPED="4")
    assert ended.returncode == 130, ended.stderr
    assert document["error"]["type"] == "Interrupted"
    assert "Traceback" not in ended.stderr


def test_what_is_found_elsewhere_adds_up(repository: Repository) -> None:
    writers = make_vms(repository, 3, 2)
    asked: list[str] = []

    def elsewhere(vms: Any, watched: Set[str | None]) -> Iterator[Any]:
        for vm in vms:
            asked.append(vm[0])
            yield vm, stored_data.check_vm(repository, vm, watched, lambda done, total: None)

    check: CheckVMs = elsewhere
    done: list[tuple[int, int]] = []
    parts = verify(repository, Scope(), "quick", elsewhere=check, progress=lambda *told: done.append(told))
    assert parts == verify(repository, Scope(), "quick")
    assert len(asked) == 3 and done[-1][0] == done[-1][1] > 0
    _finding_is_disproved(repository, index_path(repository, writers[1].backups[0].streams[0]), check)
    asked.clear()
    assert verify(repository, Scope(), "full", elsewhere=check).frames
    assert verify(repository, Scope(vm_id=repository.catalog.vms()[0].id), "quick", elsewhere=check).ok
    assert not asked


def _finding_is_disproved(repository: Repository, path: Path, check: CheckVMs) -> None:
    away = path.rename(path.with_name("away"))
    assert not verify(repository, Scope(), "quick", elsewhere=check).ok
    assert findings.found_in(repository.store)
    away.rename(path)
    assert verify(repository, Scope(), "quick", elsewhere=check).ok
    assert not findings.found_in(repository.store)
