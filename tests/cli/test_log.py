# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: each line has time and VM, a rotated file is opened again, and no line holds a secret."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr, ended, wait_until

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) \[\d+\] (?P<level>[A-Z]+) (?P<command>\w+)"
    r"(?: VM (?P<vm>\S+))?: (?P<message>.+)"
)


def _text(path: Path) -> list[re.Match[str]]:
    found = [_LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert None not in found, path.read_text()
    return [line for line in found if line is not None]


def _json(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_has_time_command_and_vm(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    log = tmp_path / "pitr.log"
    point = pitr("--log-file", log, "backup", vm.name, "--output", "json").json["backups"][0]
    lines = _text(log)
    assert {line["command"] for line in lines} == {"backup"}
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times) and abs((datetime.now().astimezone() - times[-1]).total_seconds()) < 60
    assert lines[0]["message"].startswith("started, pitr ")
    assert lines[-1]["message"].startswith("ended with exit code 0 after ")
    of_vm = [line["message"] for line in lines if line["vm"] == vm.name]
    for what in (
        f"started backup {point['backup_id']}",
        "started the download of disk",
        "ended the download of disk",
        f"ended backup {point['backup_id']}",
        "stored the point of",
        "backup: done, full",
    ):
        assert [message for message in of_vm if message.startswith(what)], what
    assert log.stat().st_mode & 0o777 == 0o600


def test_json_lines_hold_the_same(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vms = [make_vm(lab, 1 * MiB) for _ in range(2)]
    log = tmp_path / "pitr.log"
    pitr("backup", vms[0].name, "--dry-run")
    with_log = pitr.with_environment(PITR_LOG_FILE=str(log), PITR_LOG_FORMAT="json")
    with_log("backup", *(vm.name for vm in vms), "--jobs", "2")
    lines = _json(log)
    assert set(lines[0]) == {"time", "level", "command", "vm", "message", "logger", "pid"}
    assert lines[0]["time"].endswith("Z") and lines[0]["pid"] == os.getpid()
    for vm in vms:
        stored = [line for line in lines if line["vm"] == vm.name and line["message"].startswith("stored")]
        assert len(stored) == 1
    assert {line["vm"] for line in lines} == {None, *(vm.name for vm in vms)}


def test_failures_are_logged_with_the_vm_that_failed(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    log = tmp_path / "pitr.log"
    pitr("backup", vm.name, "missing", "--log-file", log, "--log-format", "json", code=1)
    errors = [line for line in _json(log) if line["level"] == "error" and line["vm"] is not None]
    assert [(line["vm"], line["message"].partition(":")[0]) for line in errors] == [("missing", "backup")]
    pitr("restore", "missing", "--at", "now", "--log-file", log, "--log-format", "json", code=4)
    last = _json(log)[-2:]
    assert "no VM 'missing'" in last[0]["message"] or "missing" in last[0]["message"]
    assert last[0]["level"] == "error" and last[1]["message"].startswith("ended with exit code 4")


def test_a_rotated_file_is_opened_again(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    log = tmp_path / "pitr.log"
    lab.engine.phase_lag_s = 30
    with pitr.process("backup", vm.name, "--log-file", log) as process:
        wait_until(lambda: log.exists() and "started, " in log.read_text(), "the log")
        log.rename(tmp_path / "pitr.log.1")
        lab.engine.phase_lag_s = 0.01
        assert ended(process).code == 0
    assert _text(tmp_path / "pitr.log.1")[0]["message"].startswith("started, ")
    assert _text(log)[-1]["message"].startswith("ended with exit code 0")
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_second_run_appends_and_keeps_the_mode(command: Pitr, tmp_path: Path) -> None:
    log = tmp_path / "pitr.log"
    log.touch(mode=0o640)
    log.chmod(0o640)
    for _ in range(2):
        command("list", "--log-file", log)
    assert len([line for line in _text(log) if line["message"].startswith("started")]) == 2
    assert log.stat().st_mode & 0o777 == 0o640


def test_a_log_file_that_cannot_be_opened_is_a_usage_error(command: Pitr, tmp_path: Path) -> None:
    assert "no files in /dev" in command("list", "--log-file", "/dev/pitr.log", code=2).complaint
    refused = command("list", "--log-file", tmp_path / "absent" / "pitr.log", code=2)
    assert "cannot write the log file" in refused.complaint
    for unusable in ("", "-"):
        command("list", "--log-file", unusable, code=2)


def test_a_full_disk_stops_the_log_and_not_the_command(command: Pitr) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full does not exist here")
    done = command("list", "--log-file", full)
    assert done.stderr.count("cannot write the log file") == 1 and "Traceback" not in done.stderr


def test_quiet_leaves_the_result_and_errors(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 1 * MiB, compat="4.6", formats=["cow"])
    loud = pitr("backup", vm.name)
    assert loud.stderr != ""
    quiet = pitr("backup", vm.name, "--full", "-q")
    assert quiet.stderr == "" and vm.name in quiet.stdout
    assert pitr("-q", "backup", vm.name, "--output", "json").stderr == ""
    assert "missing" in pitr("backup", "missing", "-q", code=4).complaint


def test_verbose_prints_each_step_once(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 1 * MiB)
    plain = pitr("backup", vm.name)
    verbose = pitr("backup", vm.name, "--full", "-v")
    steps = [line for line in verbose.stderr.splitlines() if f"INFO backup VM {vm.name}: " in line]
    assert [step for step in steps if "stored the point of" in step]
    assert "INFO" not in plain.stderr
    for line in plain.stderr.splitlines():
        assert verbose.stderr.count(line.partition(": ")[2]) <= 1
    assert "ended with" not in pitr("doctor", "--engine-url", "https://127.0.0.1:9", code=1).stderr
    failed = pitr("backup", "missing", "-v", code=4)
    assert failed.stderr.count("missing") == 1


def test_a_signal_is_logged(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    log = tmp_path / "pitr.log"
    lab.engine.phase_lag_s = 30
    with pitr.process("backup", vm.name, "--log-file", log) as process:
        wait_until(lab.open_backups, "the backup")
        process.send_signal(signal.SIGTERM)
        lab.engine.phase_lag_s = 0.01
        assert ended(process).code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in log.read_text()
    assert f"exit code {128 + signal.SIGTERM}" in _text(log)[-1]["message"]


def test_no_secret_is_in_the_log(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 * MiB)
    log = tmp_path / "pitr.log"
    tickets = []
    add = type(lab.host).add_ticket

    def noting(host: Any, ticket_id: str, *rest: Any, **named: Any) -> None:
        tickets.append(ticket_id)
        add(host, ticket_id, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lab.host), "add_ticket", noting)
        pitr("backup", vm.name, "--debug", "--log-file", log)
        pitr("restore", vm.name, "--at", "now", "--debug", "--log-file", log)
    text = log.read_text()
    assert tickets and "DEBUG" in text
    assert not [secret for secret in (lab.password, *tickets) if secret in text]


def test_a_line_in_the_file_is_one_line(command: Pitr, tmp_path: Path) -> None:
    log = tmp_path / "pitr.log"
    command("show", "a\nb\x1b[31m", "--log-file", log, code=4)
    assert _text(log)
    assert "\x1b" not in log.read_text()


def test_limits_of_files_do_not_leak_handles(command: Pitr, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        command("list", "--log-file", tmp_path / f"{number}.log")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE)
