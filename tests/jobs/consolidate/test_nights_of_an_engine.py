# SPDX-License-Identifier: GPL-2.0-or-later
"""Nights of backup and prune with an engine: one full read only, and each kept point restores what the disk held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pitr.lab import Lab
from tests.support.lab import MiB, assert_same, make_vm, oracle_of
from tests.support.pitr import Pitr

NIGHTS = 5
LAST = 2


def test_nights_of_prune_never_need_a_second_full(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    [disk] = vm.disks
    with disk.guest() as guest:
        guest.write(0, b"full" * (MiB // 4))
    oracles: dict[str, Path] = {}
    ids: list[str] = []
    for number in range(NIGHTS):
        if number:
            with disk.guest() as guest:
                guest.write((number % 3) * MiB // 4, bytes([64 + number]) * (MiB // 4))
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            point = pitr.backup(vm.name)
        assert point["kind"] == ("incremental" if number else "full")
        ids.append(point["backup_id"])
        oracles[point["backup_id"]] = oracle[disk.id]

        pending = pitr.json("prune", vm.name, "--keep-last", str(LAST), "--dry-run")
        requests = len(lab.engine.requests)
        done = pitr.json("prune", "--vm", vm.name, "--keep-last", str(LAST))
        # The engine is not asked.
        assert len(lab.engine.requests) == requests
        _check(done, pending, ids)

    listed = pitr.json("list")["points"]
    assert [_known_as(point) for point in listed] == ids[: -LAST - 1 : -1]
    assert [point["kind"] for point in listed] == ["incremental", "synthetic"]
    for backup_id in ids[-LAST:]:
        # The old id is still right, also where its record has gone.
        target = tmp_path / f"{backup_id}.raw"
        restored = pitr.json("restore", vm.name, "--point", backup_id, "--to-file", target)
        assert _known_as(restored["point"]) == backup_id
        assert_same(target, oracles[backup_id])
    assert pitr.json("verify", "--full")["damage"] == []


def _check(done: Any, pending: Any, ids: list[str]) -> None:
    """Check one prune against the ids of all backups so far, and against what its dry run said before."""
    kept = set(ids[-LAST:])
    assert {_known_as(point) for point in done["kept"]} == kept
    assert [point["backup_id"] for point in done["removed"]] == [
        point["backup_id"] for point in pending["removed"]
    ]
    assert [point["stands_for"] for point in done["created"]] == [
        point["stands_for"] for point in pending["created"]
    ]
    assert {point["stands_for"] for point in done["created"]} <= kept
    assert (done["freed_bytes"], done["copied_bytes"]) == (pending["freed_bytes"], pending["copied_bytes"])
    if len(ids) > LAST:
        assert done["created"][-1]["stands_for"] == ids[-LAST]
        assert done["created"][-1]["kind"] == "synthetic"


def _known_as(point: Any) -> str:
    return str(point["stands_for"] or point["backup_id"])
