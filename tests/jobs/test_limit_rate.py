# SPDX-License-Identifier: GPL-2.0-or-later
"""`--limit-rate`: every command that moves data keeps to it, in both directions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.lab import Lab
from pitr.repository import Repository
from tests.support.lab import make_vm
from tests.support.pitr import Pitr, ended
from tests.support.points import Writer

MiB = 1 << 20
#: 12 MiB at 6 MiB a second: one second from the full bucket, and one more.
_DATA, _RATE = "12m:A", "6M"


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


@pytest.fixture
def point(repository: Repository) -> str:
    writer = Writer(repository)
    writer.add(_DATA)
    return writer.backups[0].backup_id


@pytest.mark.parametrize(
    "command_line",
    [
        ("restore", "--point", "{point}", "--to-file", "{folder}/out.raw"),
        ("export", "--point", "{point}", "--to", "{folder}/stream"),
        ("verify",),
        ("drill", "{point}", "--digests-only"),
    ],
    ids=lambda line: str(line[0]),
)
def test_commands_that_read_points_keep_to_the_rate(
    point: str, command: Pitr, tmp_path: Path, command_line: tuple[str, ...]
) -> None:
    line = [word.format(point=point, folder=tmp_path) for word in command_line]
    assert _seconds(lambda: command(*line, "--limit-rate", _RATE)) >= 0.95


def test_an_import_keeps_to_the_rate(point: str, command: Pitr, tmp_path: Path) -> None:
    command("export", "--point", point, "--to", tmp_path / "stream")
    new = command.with_environment(PITR_REPO=str(tmp_path / "new"))
    new("init")
    assert _seconds(lambda: new("import", tmp_path / "stream", "--limit-rate", _RATE)) >= 0.95


def test_a_served_point_keeps_to_the_rate(point: str, command: Pitr, tmp_path: Path) -> None:
    copy = f"qemu-img convert -O raw $NBD_URI {tmp_path}/out.raw"
    seconds = _seconds(lambda: command("serve", "--point", point, "--limit-rate", _RATE, "--run", copy))
    assert seconds >= 0.95


def test_an_exact_difference_keeps_to_the_rate(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    writer.add("6m:A")
    writer.add("6m:B")
    before, after = (backup.backup_id for backup in writer.backups)
    line = ("diff", "--point", before, "--point", after, "--exact", "--limit-rate", _RATE)
    assert _seconds(lambda: command(*line)) >= 0.95


def test_a_comparison_with_the_engine_keeps_to_the_rate(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 12 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, os.urandom(12 * MiB))
    pitr.backup(vm.name)
    line = ("verify", vm.name, "--against-engine")
    free = _seconds(lambda: pitr(*line))
    assert _seconds(lambda: pitr(*line, "--limit-rate", "3M")) >= max(2.95, free)


def test_a_signal_ends_a_limited_server_at_once(point: str, command: Pitr, tmp_path: Path) -> None:
    line = ("serve", "--point", point, "--limit-rate", "10k", "--socket", tmp_path / "socket", "-o", "json")
    with command.process(*line) as process:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())["serve"]["disks"][0]
        copy = ["qemu-img", "convert", "-O", "raw", served["uri"], tmp_path / "out.raw"]
        with subprocess.Popen(copy, stderr=subprocess.DEVNULL) as client:
            time.sleep(2)
            assert client.poll() is None
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            result = ended(process)
    assert time.monotonic() - started < 10 and result.code == 0


def test_a_signal_ends_a_limited_gateway_at_once(point: str, command: Pitr, tmp_path: Path) -> None:
    line = ("gateway", "--port", "0", "--plain-http", "--limit-rate", "10k", "-o", "json")
    with command.process(*line) as process:
        assert process.stdout is not None
        gateway = json.loads(process.stdout.readline())["gateway"]
        token = Path(gateway["token_file"]).read_text().strip()
        [disk] = command.json("show", point)["point"]["disks"]
        where = f"{gateway['url']}/points/{point}/disks/{disk['disk_id']}?format=raw"
        header = f"Authorization: Bearer {token}"
        curl = ["curl", "-s", "-f", "-o", tmp_path / "out", "-H", header, where]
        with subprocess.Popen(curl) as client:
            time.sleep(2)
            assert client.poll() is None
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            result = ended(process)
    assert time.monotonic() - started < 10 and result.code == 0


def test_all_disks_of_a_backup_share_the_rate(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 8 * MiB, 8 * MiB)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(0, os.urandom(8 * MiB))
    # 16 MiB, 8 a second, one second in the bucket.
    assert _seconds(lambda: pitr("backup", vm.name, "--limit-rate", "8M")) >= 0.95


def test_a_signal_ends_a_limited_backup_at_once(pitr: Pitr, lab: Lab) -> None:
    vm = make_vm(lab, 8 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, os.urandom(8 * MiB))
    with pitr.process("backup", vm.name, "--limit-rate", "10k") as process:
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        result = ended(process)
    assert time.monotonic() - started < 10
    assert result.code == 128 + signal.SIGINT
    assert pitr.json("list")["points"] == []


@pytest.mark.parametrize("rate", ["0", "fast", "5X"])
def test_a_wrong_rate_is_refused_with_an_example(point: str, command: Pitr, rate: str) -> None:
    assert "5M" in command("verify", "--limit-rate", rate, code=2).complaint


@pytest.mark.parametrize(
    "name", ["backup", "restore", "export", "import", "verify", "drill", "serve", "gateway", "run", "diff"]
)
def test_a_command_that_moves_data_has_the_option(command: Pitr, name: str) -> None:
    assert "--limit-rate" in command(name, "--help").stdout
