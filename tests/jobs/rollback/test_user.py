# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user of `pitr rollback` can meet or do wrong: the VM keeps its data, and there is always a way on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import EngineBusy, EngineError
from pitr.lab import Lab, LabVM
from pitr.ovirt.engine import rename_attached_disk
from tests.support.lab import KiB, MiB, make_vm, nothing_open
from tests.support.pitr import Pitr

SIZE = 2 * MiB


def _contents(lab: Lab, vm: LabVM, folder: Path) -> list[bytes]:
    """Return what the VM's disks hold, by their names."""
    held: list[bytes] = []
    for disk in sorted(lab.vm(vm.id).disks, key=lambda disk: disk.name):
        copy = folder / "content"
        copy.unlink(missing_ok=True)
        lab.disk(disk.id).copy_content(copy)
        held.append(copy.read_bytes())
    return held


def _write(vm: LabVM, lab: Lab, offset: int, data: bytes) -> None:
    """Write to all disks of the VM as its guest, and leave the VM down."""
    vm.start()
    for disk in lab.vm(vm.id).disks:
        with disk.guest() as guest:
            guest.write(offset, data)
    vm.stop()


class Case:
    """A VM that is down, with a point to go back to and newer data."""

    def __init__(self, lab: Lab, pitr: Pitr, folder: Path, *sizes: int) -> None:
        self.lab, self.pitr, self.folder = lab, pitr, folder
        self.vm = make_vm(lab, *sizes, running=False)
        _write(self.vm, lab, 0, b"then" * 64 * KiB)
        self.point = str(pitr.backup(self.vm.name)["backup_id"])
        self.then = self.contents()
        _write(self.vm, lab, 64 * KiB, b"now" * 8 * KiB)
        self.now = self.contents()

    def contents(self) -> list[bytes]:
        return _contents(self.lab, self.vm, self.folder)

    def rollback(self, *options: str, code: int = 0) -> Any:
        return self.pitr.json("rollback", self.vm.name, *options, code=code)

    def to_point(self, *options: str, code: int = 0) -> Any:
        return self.rollback("--point", self.point, *options, code=code)

    def points(self) -> list[Any]:
        return list(self.pitr.json("list", self.vm.name)["points"])


Cases = Callable[..., Case]


@pytest.fixture
def case(lab: Lab, pitr: Pitr, tmp_path: Path) -> Cases:
    return lambda *sizes: Case(lab, pitr, tmp_path, *(sizes or (SIZE,)))


@pytest.mark.parametrize("mode", [[], ["--in-place"]], ids=["copies", "in-place"])
def test_two_disks_of_one_name_go_back(case: Cases, lab: Lab, mode: list[str]) -> None:
    made = case(SIZE, MiB)
    for disk in made.vm.disks:
        lab.disk(disk.id).rename("data")
    sizes = sorted(len(each) for each in made.then)
    made.to_point(*mode)
    assert sorted(made.contents()) == sorted(made.then)
    assert sorted(disk.size for disk in lab.vm(made.vm.id).disks) == sizes
    assert {disk.name for disk in lab.vm(made.vm.id).disks} == {"data"}


def test_the_backup_after_an_ended_rollback_compares_once(
    case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case(SIZE, MiB)
    _stop_after_one_disk(monkeypatch, made)
    refused = made.pitr.json("backup", made.vm.name, code=5)
    assert "--continue" in refused["error"]["advice"]
    made.rollback("--continue")
    assert {disk["changes"] for disk in made.pitr.backup(made.vm.name)["disks"]} == {"compared"}
    assert {disk["changes"] for disk in made.pitr.backup(made.vm.name)["disks"]} == {"tracked"}


def test_a_disk_that_shrank_is_refused_before_anything(case: Cases, lab: Lab) -> None:
    made = case(SIZE)
    lab.disk(made.vm.disks[0].id).replace(MiB, "cow")
    now, before = made.contents(), len(made.points())
    for mode in ([], ["--in-place"]):
        refused = made.to_point(*mode, code=2)
        assert "restore --replace" in refused["error"]["advice"]
    assert made.contents() == now and len(made.points()) == before


def test_a_disk_that_grew_goes_back(case: Cases, lab: Lab) -> None:
    made = case()
    lab.disk(made.vm.disks[0].id).grow(SIZE + MiB)
    _write(made.vm, lab, SIZE + 512 * KiB, b"grown" * 1000)
    made.to_point("--in-place")
    assert made.contents() == [made.then[0] + bytes(MiB)]


def test_a_rollback_whose_disk_the_engine_removed_can_be_ended(case: Cases, lab: Lab) -> None:
    made = case()
    lab.engine.faults.fail("upload verification")
    failed = made.to_point("--in-place", code=6)
    assert failed["error"]["type"] == "DiskRemoved"
    assert lab.vm(made.vm.id).disks == []
    made.rollback("--continue", code=4)
    # The restore brings the disk back, and nothing stands in the way of another rollback.
    made.pitr("restore", made.vm.name, "--point", made.point, "--replace", code=0)
    assert made.contents() == made.then
    made.to_point("--in-place")


def test_a_rollback_that_was_interrupted_between_two_disks_can_be_ended_or_undone(
    case: Cases, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case(SIZE, MiB)
    _stop_after_one_disk(monkeypatch, made)
    # The second disk is not locked, and so the VM can be started.
    _write(made.vm, lab, 256 * KiB, b"guest")
    made.rollback("--continue")
    assert made.contents()[1] == made.then[1]
    made.to_point("--dry-run")


def test_an_unfinished_rollback_can_be_undone(case: Cases, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case(SIZE, MiB)
    _stop_after_one_disk(monkeypatch, made)
    made.rollback("--undo", "--in-place")
    assert made.contents() == made.now
    assert nothing_open(lab)
    made.rollback("--continue", code=4)


def test_damage_of_the_point_is_found_before_a_byte_is_written(case: Cases, lab: Lab) -> None:
    made = case()
    _write(made.vm, lab, MiB, random.Random(7).randbytes(512 * KiB))
    made.point = str(made.pitr.backup(made.vm.name)["backup_id"])
    # The disk does not differ from the point there, so only a read of the whole point finds it.
    blob = max(made.pitr.repository.rglob("*.zst"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(blob.read_bytes())
    assert len(data) > 512 * KiB
    data[len(data) // 2] ^= 0xFF
    blob.chmod(0o600)
    blob.write_bytes(data)
    _write(made.vm, lab, 0, b"later")
    made.now = made.contents()
    refused = made.to_point("--in-place", code=3)
    assert refused["error"]["type"] == "StoredDamage"
    assert made.contents() == made.now and nothing_open(lab)
    made.rollback("--continue", code=4)


@pytest.mark.parametrize("fault", ["disk copy", "upload verification"])
def test_a_failure_on_a_copy_leaves_the_vm_as_it_was(case: Cases, lab: Lab, fault: Any) -> None:
    made = case(SIZE, MiB)
    before = {disk.id for disk in lab.disks}
    lab.engine.faults.fail(fault)
    made.to_point(code=6)
    assert made.contents() == made.now and nothing_open(lab)
    assert {disk.id for disk in lab.disks} == before
    assert [disk.name for disk in lab.vm(made.vm.id).disks] == ["d0", "d1"]
    made.rollback("--continue", code=4)
    made.to_point("--start")
    assert lab.vm(made.vm.id).running
    refused = made.rollback("--undo", code=6)
    assert "--stop" in refused["error"]["advice"]
    made.rollback("--undo", "--stop")
    assert made.contents() == made.now


def _stop_after_one_disk(monkeypatch: pytest.MonkeyPatch, made: Case) -> None:
    """Stop a rollback in place when it has taken one of two disks back."""
    from pitr.errors import EngineError
    from pitr.jobs.rollback import in_place

    write = in_place._write
    written: list[int] = []

    def one(*arguments: Any, **options: Any) -> Any:
        if written:
            raise EngineError("the engine does not answer")
        written.append(1)
        return write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "_write", one)
        made.to_point("--in-place", code=6)
    assert made.contents() not in (made.now, made.then)


def test_a_swap_that_can_neither_end_nor_be_undone_goes_on_later(
    case: Cases, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = case(SIZE)
    # Undone and done again: the second swap is of the same two disks as the first one.
    own.to_point()
    own.rollback("--undo")
    calls: list[str] = []

    def fail_from_the_second_on(*arguments: Any) -> None:
        calls.append(arguments[-1])
        if len(calls) > 1:
            raise EngineBusy("the disk is locked")
        rename_attached_disk(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pitr.jobs.restore.swap.rename_attached_disk", fail_from_the_second_on)
        own.rollback("--undo", code=6)
    assert own.pitr.json("status", code=1)["vms"][0]["state"] == "critical"
    own.to_point(code=6)
    # Both points are needed until then, and each may be replaced by one that needs no other.
    pruned = own.pitr.json("prune", "--keep-last", "1")
    held = [point for point in pruned["kept"] if "held by an unfinished rollback" in point["kept_by"]]
    assert len(held) == 2 and pruned["created"]
    refused = own.pitr.json("forget", held[0]["backup_id"], code=2)
    assert "--continue" in refused["error"]["advice"]
    own.rollback("--continue")
    assert own.contents() == own.then and len(lab.vm(own.vm.id).disks) == 1
    # The hold is gone with the rollback, also that of a point that has taken a place.
    assert len(own.pitr.json("prune", "--keep-last", "1")["kept"]) == 1
    own.rollback("--continue", code=4)


def test_a_rollback_is_complete_without_the_point_after_it(
    case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = case(SIZE)

    def refuse(*_: Any) -> None:
        raise EngineError("the engine is away")

    monkeypatch.setattr("pitr.jobs.rollback.handover.get_configuration", refuse)
    said = own.pitr("rollback", own.vm.name, "--point", own.point)
    assert "cannot store the point after the rollback: the engine is away" in said.stderr
    assert own.contents() == own.then
