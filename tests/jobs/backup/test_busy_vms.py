# SPDX-License-Identifier: GPL-2.0-or-later
"""Busy VMs are tried again at the end of the run; each VM is reported when it is finished, also after an interrupt."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.jobs.backup import many_vms, one_vm
from pitr.lab import Lab, LabVM
from pitr.times import parse_wait
from tests.support.lab import MiB, nothing_open
from tests.support.pitr import Pitr, ended, wait_until


@pytest.fixture
def vms(lab: Lab) -> list[LabVM]:
    """web0, web1 and web2, each with one disk."""
    made = []
    for number in range(3):
        vm = lab.add_vm(f"web{number}")
        vm.add_disk("system", MiB, bootable=True)
        vm.start()
        made.append(vm)
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_vm, "_BUSY_S", 0.1)
    monkeypatch.setattr(many_vms, "_BUSY_PAUSE_S", 0.1)


@contextmanager
def migrating(lab: Lab, vm: LabVM, until: LabVM | None) -> Iterator[None]:
    """The VM migrates until the backup of another VM is finalized (None: for the whole block)."""
    lab.engine.set_vm(vm.id, status="migrating")
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            if until is not None and any(
                f"/vms/{until.id}/backups/" in request.path and request.path.endswith("/finalize")
                for request in lab.engine.requests
            ):
                break
        lab.engine.set_vm(vm.id, status="up")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_vm_that_migrates_is_tried_again_at_the_end(
    lab: Lab, pitr: Pitr, vms: list[LabVM], jobs: str
) -> None:
    with migrating(lab, vms[0], vms[2]):
        result = pitr("backup", "web0", "web1", "web2", "--jobs", jobs, "--output", "json")
    assert [point["vm"]["name"] for point in result.json["backups"]] == ["web0", "web1", "web2"]
    assert "VM web0 is busy" in result.stderr and "5 min" in result.stderr
    finished = re.findall(r"pitr: \d\d:\d\d:\d\d (web\d): full, 1 disk, ", result.stderr)
    assert sorted(finished) == ["web0", "web1", "web2"] and finished[-1] == "web0"


def test_one_busy_vm_is_waited_for(lab: Lab, pitr: Pitr, vms: list[LabVM]) -> None:
    lab.engine.set_disk_status(vms[0].disks[0].id, "locked")
    timer = threading.Timer(0.6, lab.engine.set_disk_status, (vms[0].disks[0].id, "ok"))
    timer.start()
    assert pitr.backup("web0")["kind"] == "full"
    timer.join()


def test_the_wait_has_an_end(lab: Lab, pitr: Pitr, vms: list[LabVM]) -> None:
    with migrating(lab, vms[0], None):
        short = pitr("backup", "web0", "web1", "--busy-wait", "1s", "-o", "json", code=1)
        assert [failed["error"]["type"] for failed in short.json["failed"]] == ["EngineBusy"]
        assert short.stderr.count("web0: FAILED") == 1 and "(2 of 2 VMs)" in short.stderr
        none = pitr("backup", "web0", "--busy-wait", "0", code=6)
        assert "is busy" not in none.stderr
    assert nothing_open(lab)


def test_a_suspended_vm_is_not_waited_for(lab: Lab, pitr: Pitr, vms: list[LabVM]) -> None:
    lab.engine.set_vm(vms[0].id, status="suspended")
    try:
        assert "Up or Down" in pitr("backup", "web0", code=6).complaint
    finally:
        lab.engine.set_vm(vms[0].id, status="up")


def test_the_hosted_engine_is_skipped_with_a_reason(lab: Lab, pitr: Pitr, vms: list[LabVM]) -> None:
    lab.engine.set_vm(vms[1].id, hosts_engine=True)
    result = pitr("backup", "web0", "web1", "web2", "-o", "json")
    (skipped,) = result.json["skipped"]
    assert skipped["vm"] == "web1" and "hosted engine" in skipped["reason"]
    assert result.json["failed"] == [] and len(result.json["backups"]) == 2
    assert re.search(r"\d\d:\d\d:\d\d web1: skipped: ", result.stderr)


def test_a_vm_that_another_pitr_backs_up_is_tried_again(lab: Lab, pitr: Pitr, vms: list[LabVM]) -> None:
    from pitr.model import VMName
    from pitr.repository import Repository

    with Repository.open(pitr.repository) as repository, repository.lock_vm(VMName(vms[0].id, "web0")):
        pitr("backup", "web0", code=5)
        result = pitr("backup", "web0", "web1", "--busy-wait", "1s", code=1)
    assert "another pitr works on" in result.stderr


@pytest.mark.parametrize("output", ["json", "text"])
def test_an_interrupt_reports_what_is_finished(
    lab: Lab, pitr: Pitr, vms: list[LabVM], output: str, tmp_path: Path
) -> None:
    lab.engine.set_vm(vms[2].id, status="migrating")
    try:
        with pitr.process("backup", "web0", "web1", "web2", "--output", output) as process:
            wait_until(lambda: len(_points(pitr)) == 2, "two points")
            wait_until(lambda: _posts(lab, vms[2]) > 0, "a third attempt")
            process.send_signal(signal.SIGINT)
            result = ended(process)
    finally:
        lab.engine.set_vm(vms[2].id, status="up")
    assert result.code == 128 + signal.SIGINT, result
    assert "SIGINT" in result.complaint and "2 of 3 VMs are finished" in result.complaint
    assert "not finished: web2" in result.complaint
    if output == "json":
        assert [point["vm"]["name"] for point in result.json["backups"]] == ["web0", "web1"]
        assert result.json["unfinished"] == ["web2"] and result.json["failed"] == []
        assert result.json["error"]["type"] == "Interrupted"
    else:
        assert [line.split()[0] for line in result.stdout.splitlines() if "web" in line] == ["web0", "web1"]
    assert nothing_open(lab)


def _points(pitr: Pitr) -> list[Path]:
    return list((pitr.repository / "backups").rglob("*.json"))


def _posts(lab: Lab, vm: LabVM) -> int:
    return sum(
        request.method == "POST" and request.path.startswith(f"/ovirt-engine/api/vms/{vm.id}/backups")
        for request in lab.engine.requests
    )


def test_waiting_times() -> None:
    from pitr.errors import UsageError

    assert [parse_wait("x", text) for text in ("0", "30s", "5m", "5 min", "1h")] == [0, 30, 300, 300, 3600]
    for text in ("5", "soon", "-5m", "1d", ""):
        with pytest.raises(UsageError, match="--busy-wait"):
            parse_wait("--busy-wait", text)
