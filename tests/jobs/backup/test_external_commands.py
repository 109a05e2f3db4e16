# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in the configuration: all backups go to a vendor's software, come back from it, and are deleted there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.lab import assert_same, make_vm
from tests.support.pitr import Pitr

MiB = 1 << 20


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    folder = tmp_path / "tape"
    folder.mkdir()
    return folder


@pytest.fixture
def store(pitr: Pitr, tape: Path, tmp_path: Path) -> Pitr:
    config = tmp_path / "config.toml"
    config.write_text(
        "[store]\n"
        f"""put_command = '''sh -c 'cat > "$0/$1"' {tape} {{stream_id}}'''\n"""
        f'get_command = "cat {tape}/{{stream_id}}"\n'
        f'delete_command = "rm {tape}/{{stream_id}}"\n'
    )
    return pitr.with_environment(PITR_CONFIG=str(config))


def test_backups_go_out_come_back_and_are_deleted(lab: Lab, store: Pitr, tape: Path, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    oracles: list[Path] = []
    points: list[Any] = []
    for number in range(3):
        with vm.disks[0].guest() as guest:
            guest.write(number * 4096, random.Random(number).randbytes(300_000))
        oracles.append(tmp_path / f"oracle{number}")
        lab.disk(vm.disks[0].id).copy_content(oracles[-1])
        points.append(store.backup(vm.name, "--full" if number == 1 else "--incremental"))
    assert {path.name for path in tape.iterdir()} == {point["disks"][0]["stream_id"] for point in points}
    assert not list(store.repository.rglob("*.zst"))
    for point, oracle in zip(points, oracles, strict=True):
        path = tmp_path / f"{point['backup_id']}.raw"
        store.restore_to_file(point, path)
        assert_same(path, oracle)
    path = tmp_path / "again.raw"
    store("restore", "--point", points[0]["backup_id"], "--to-file", path, "--replace", code=2)
    # A point that is in the repository is read there.
    inside = store.with_environment(PITR_CONFIG="").backup(vm.name, "--full")
    assert inside["disks"][0]["external"] is None
    (tape / points[0]["disks"][0]["stream_id"]).rename(tmp_path / "moved")
    store.restore_to_file(inside, path)
    (tmp_path / "moved").rename(tape / points[0]["disks"][0]["stream_id"])

    assert store.json("prune", "--keep-last", "3", "--dry-run")["left_elsewhere"] == []
    assert len(list(tape.iterdir())) == 3
    assert store.json("prune", "--keep-last", "3")["left_elsewhere"] == []
    assert len(list(tape.iterdir())) == 2
    for path in tape.iterdir():
        path.unlink()
    failed = store("prune", "--keep-last", "1", "--output", "json", code=1)
    assert set(failed.json["left_elsewhere"]) == {point["disks"][0]["stream_id"] for point in points[1:]}
    assert "no point needs" in failed.stderr
    assert [point["backup_id"] for point in store.json("list")["points"]] == [inside["backup_id"]]


@pytest.mark.parametrize(
    "command", ["cat > {stream_id}", "pigz | vendor-put {stream_id}", "put {stream_id} 2>&1"]
)
def test_a_line_for_a_shell_is_refused_before_anything_is_done(pitr: Pitr, lab: Lab, command: str) -> None:
    refused = pitr("backup", make_vm(lab, MiB).name, "--put-command", command, code=2)
    assert "without a shell" in refused.complaint and "sh -c" in refused.complaint
    assert pitr.json("list")["points"] == []


def test_without_a_delete_command_it_is_said_what_lies_elsewhere(
    lab: Lab, pitr: Pitr, tape: Path, tmp_path: Path
) -> None:
    vm = make_vm(lab, MiB)
    for _ in range(2):
        pitr.backup(vm.name, "--full", "--put-command", f"sh -c 'cat > {tape}/x'")
    result = pitr("prune", "--keep-last", "1", "--output", "json")
    (left,) = result.json["left_elsewhere"]
    assert left in result.stderr
