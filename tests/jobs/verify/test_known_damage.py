# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage that a check finds is remembered: points are marked, no backup builds on it, and a clean check clears it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of
from tests.support.pitr import Pitr


def blob_of(pitr: Pitr, point: Any, disk: int = 0) -> Path:
    entry = point["disks"][disk]
    return Path(pitr.repository, "blobs", entry["disk_id"], f"{entry['stream_id']}.sparse.zst")


def harm(path: Path) -> Callable[[], None]:
    """Change one byte in the middle of a file; return a function that mends it."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0x10
    path.write_bytes(bad)

    def mend() -> None:
        path.write_bytes(good)

    return mend


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    return make_vm(lab, 2 * MiB, MiB)


def change(vm: LabVM, number: int) -> None:
    chance = random.Random(number)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(number * 128 * KiB, chance.randbytes(128 * KiB))


def chain(pitr: Pitr, vm: LabVM, points: int) -> list[Any]:
    made = []
    for number in range(points):
        change(vm, number)
        made.append(pitr.backup(vm.name))
    return made


def damaged(pitr: Pitr) -> set[str]:
    return {point["backup_id"] for point in pitr.json("list")["points"] if point["damaged"]}


def findings(pitr: Pitr) -> list[Path]:
    return [path for path in pitr.repository.glob("checks/**/*") if path.is_file()]


def test_lost_points_are_marked_until_a_check_reads_the_bytes_again(pitr: Pitr, vm: LabVM) -> None:
    first, second, third = chain(pitr, vm, 3)
    assert damaged(pitr) == set()
    assert "DAMAGED" not in pitr("list").stdout
    mend = harm(blob_of(pitr, second))
    lost = {second["backup_id"], third["backup_id"]}
    found = pitr.json("verify", code=3)["damage"]

    assert damaged(pitr) == lost
    assert pitr("list").stdout.count("DAMAGED") == 2
    shown = pitr.json("show", third["backup_id"])
    assert shown["point"]["damaged"] is True
    assert shown["damage"] == found and set(found[0]["points_lost"]) == lost
    assert [point["damaged"] for point in shown["chain"]] == [False, True, True]
    assert "DAMAGED" in pitr("show", third["backup_id"]).stdout
    good = pitr.json("show", first["backup_id"])
    assert (good["point"]["damaged"], good["damage"]) == (False, [])

    # A quick check and a sample do not read the bytes: they repeat what is known.
    quick = pitr.json("verify", "--quick", code=3)
    assert quick["ok"] is False and set(quick["damage"][0]["points_lost"]) == lost
    mend()
    pitr("verify", "--quick", code=3)
    pitr("verify", "--sample", "0", code=3)
    assert damaged(pitr) == lost
    assert pitr.json("verify")["ok"] is True
    assert damaged(pitr) == set() and findings(pitr) == []
    assert pitr.json("verify", "--quick")["ok"] is True


def test_damage_survives_a_rebuild_of_the_catalog(pitr: Pitr, vm: LabVM) -> None:
    first, second = chain(pitr, vm, 2)
    harm(blob_of(pitr, second))
    pitr("verify", code=3)
    pitr("catalog", "rebuild")
    assert damaged(pitr) == {second["backup_id"]}
    (pitr.repository / "catalog.db").unlink()
    assert damaged(pitr) == {second["backup_id"]}
    assert first["backup_id"] not in damaged(pitr)


def test_a_missing_blob_that_is_back_is_cleared_by_a_quick_check(
    pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    (point,) = chain(pitr, vm, 1)
    blob = blob_of(pitr, point)
    shutil.move(blob, tmp_path / "blob")
    pitr("verify", "--quick", code=3)
    assert damaged(pitr) == {point["backup_id"]}
    shutil.move(tmp_path / "blob", blob)
    assert pitr.json("verify", "--quick")["ok"] is True
    assert damaged(pitr) == set()


@pytest.mark.parametrize("part", ["point", "vm"])
def test_a_check_of_a_part_repeats_and_clears_only_its_own_damage(
    lab: Lab, pitr: Pitr, vm: LabVM, part: str
) -> None:
    (point,) = chain(pitr, vm, 1)
    other = make_vm(lab, MiB)
    with other.disks[0].guest() as guest:
        guest.write(0, b"o" * 4096)
    of_other = pitr.backup(other.name)
    mend, mend_other = harm(blob_of(pitr, point)), harm(blob_of(pitr, of_other))
    pitr("verify", code=3)
    mend()
    mend_other()
    scope = ["--point", point["backup_id"]] if part == "point" else [vm.name]
    assert pitr.json("verify", *scope)["ok"] is True
    assert damaged(pitr) == {of_other["backup_id"]}
    pitr("verify", "--quick", other.name, code=3)


def test_the_next_backup_reads_only_the_damaged_disk_in_full(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    _, second = chain(pitr, vm, 2)
    harm(blob_of(pitr, second, disk=1))
    pitr("verify", code=3)
    change(vm, 3)
    plan = pitr.json("backup", vm.name, "--dry-run")["plans"][0]
    assert plan["kind"] == "incremental" and "d1 in full" in plan["reason"]
    with oracle_of(lab, tmp_path / "1") as oracle:
        taken = pitr("backup", vm.name, "--incremental", "-o", "json")
    (point,) = taken.json["backups"]
    assert {disk["name"]: disk["kind"] for disk in point["disks"]} == {"d0": "incremental", "d1": "full"}
    (full,) = [disk for disk in point["disks"] if disk["kind"] == "full"]
    assert "damaged" in full["reason"] and second["backup_id"] in full["reason"]
    assert second["backup_id"] in taken.stderr
    assert point["damaged"] is False and damaged(pitr) == {second["backup_id"]}
    assert_restores(pitr, lab, point, oracle, tmp_path)
    # The new full is a good base.
    change(vm, 4)
    with oracle_of(lab, tmp_path / "2") as oracle:
        after = pitr.backup(vm.name, "--no-fallback")
    assert {disk["kind"] for disk in after["disks"]} == {"incremental"}
    assert_restores(pitr, lab, after, oracle, tmp_path)


def test_without_fallback_a_damaged_chain_is_refused(pitr: Pitr, vm: LabVM) -> None:
    (point,) = chain(pitr, vm, 1)
    harm(blob_of(pitr, point, disk=1))
    pitr("verify", code=3)
    refused = pitr("backup", vm.name, "--no-fallback", code=6)
    assert "d1" in refused.complaint and point["backup_id"] in refused.complaint
    # The other disk alone can be incremental.
    assert pitr.backup(vm.name, "--no-fallback", "--disk", "d0")["kind"] == "incremental"


def test_a_vm_whose_disks_are_all_damaged_gets_a_full(pitr: Pitr, vm: LabVM) -> None:
    (point,) = chain(pitr, vm, 1)
    for disk in (0, 1):
        harm(blob_of(pitr, point, disk))
    pitr("verify", code=3)
    taken = pitr.backup(vm.name, "--incremental")
    assert (taken["kind"], taken["parent_id"]) == ("full", None)
    assert "damaged" in taken["reason"] and point["backup_id"] in taken["reason"]


def test_the_backups_own_sample_finds_damage_and_reads_the_disk_in_full(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    (first,) = chain(pitr, vm, 1)
    harm(blob_of(pitr, first, disk=1))
    with vm.disks[1].guest() as guest:
        guest.write(64 * KiB, b"x" * 100)
    with oracle_of(lab, tmp_path / "1") as oracle:
        point = pitr.backup(vm.name, "--incremental", "--check-unchanged", "100")
    assert {disk["name"]: disk["kind"] for disk in point["disks"]} == {"d0": "incremental", "d1": "full"}
    assert damaged(pitr) == {first["backup_id"]}
    assert_restores(pitr, lab, point, oracle, tmp_path)


def _restore(pitr: Pitr, point: Any, tmp_path: Path) -> None:
    pitr("restore", "--point", point["backup_id"], "--to-file", tmp_path / "restored/", code=3)


def _salvage(pitr: Pitr, point: Any, tmp_path: Path) -> None:
    pitr(
        "restore", "--point", point["backup_id"], "--keep-going", "--to-file", tmp_path / "salvaged/", code=3
    )


def _drill(pitr: Pitr, point: Any, tmp_path: Path) -> None:
    document = pitr.json("drill", "--point", point["backup_id"], "--digests-only", code=3)
    assert document["point"]["damaged"] is True


def _export(pitr: Pitr, point: Any, tmp_path: Path) -> None:
    pitr("export", "--point", point["backup_id"], "--disk", "d0", "--to", tmp_path / "out", code=3)


def _serve(pitr: Pitr, point: Any, tmp_path: Path) -> None:
    read = 'for uri in $NBD_URIS; do qemu-img convert -O raw "$uri" /dev/null; done; true'
    read = read.replace("/dev/null", str(tmp_path / "read"))
    pitr("serve", "--point", point["backup_id"], "--socket", tmp_path / "nbd", "--run", read)


@pytest.mark.parametrize("meet", [_restore, _salvage, _drill, _export, _serve])
def test_whatever_meets_damage_remembers_it(
    pitr: Pitr, vm: LabVM, tmp_path: Path, meet: Callable[[Pitr, Any, Path], None]
) -> None:
    first, second = chain(pitr, vm, 2)
    mend = harm(blob_of(pitr, second))
    meet(pitr, second, tmp_path)
    assert damaged(pitr) == {second["backup_id"]}
    pitr("verify", "--quick", code=3)
    # A drill of another point clears nothing; a clean drill of this one does.
    mend()
    pitr("drill", "--point", first["backup_id"], "--digests-only")
    assert damaged(pitr) == {second["backup_id"]}
    assert pitr.json("drill", "--point", second["backup_id"], "--digests-only")["point"]["damaged"] is False
    assert damaged(pitr) == set()


def test_a_dry_run_records_nothing(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    first, second = chain(pitr, vm, 2)
    blob_of(pitr, second).unlink()
    pitr("restore", vm.name, "--at", "now", "--to-file", tmp_path / "x/", "--dry-run", code=3)
    pitr("backup", vm.name, "--dry-run")
    assert findings(pitr) == [] and first


def test_a_time_on_a_lost_point_names_the_newest_good_one_and_writes_nothing(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    change(vm, 0)
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        good = pitr.backup(vm.name)
    lost = chain(pitr, vm, 3)[1:]
    harm(blob_of(pitr, pitr.json("list")["points"][1]))
    pitr("verify", code=3)
    newest = pitr.json("list")["points"][0]
    good = pitr.json("list")["points"][2]
    target = tmp_path / "out/"
    disks = {disk.id for disk in lab.disks}
    for more in ([], ["--dry-run"]):
        refused = pitr("restore", vm.name, "--at", "now", "--to-file", f"{target}/", *more, code=3)
        assert good["backup_id"] in refused.complaint and "--newest-good" in refused.complaint
        assert newest["backup_id"] in refused.complaint and "--point" in refused.complaint
        assert not target.exists()
    pitr("restore", vm.name, "--at", newest["point"], "--to-new-disks", code=3)
    assert {disk.id for disk in lab.disks} == disks
    error = pitr("restore", vm.name, "--at", "now", "--to-file", f"{target}/", "-o", "json", code=3).error
    assert good["backup_id"] in error["advice"]
    for command in ("serve", "export"):
        refused = pitr(
            command,
            vm.name,
            "--at",
            "now",
            "--disk",
            "d0",
            "--to" if command == "export" else "--socket",
            tmp_path / "x",
            code=3,
        )
        assert good["backup_id"] in refused.complaint

    taken = pitr("restore", vm.name, "--at", "now", "--newest-good", "--to-file", f"{target}/", "-o", "json")
    assert taken.json["point"]["backup_id"] == good["backup_id"] and taken.json["point"]["damaged"] is False
    assert taken.json["next_point"] is not None and taken.json["age_s"] > 0
    assert good["backup_id"] in taken.stderr and "damaged" in taken.stderr
    plan = pitr.json(
        "restore", vm.name, "--at", "now", "--newest-good", "--to-file", tmp_path / "y/", "--dry-run"
    )
    assert plan["point"]["backup_id"] == good["backup_id"]
    pitr("restore", "--point", newest["backup_id"], "--to-file", tmp_path / "z/", code=3)
    salvaged = pitr(
        "restore",
        "--point",
        newest["backup_id"],
        "--keep-going",
        "--to-file",
        tmp_path / "s/",
        "-o",
        "json",
        code=3,
    )
    assert salvaged.json["point"]["damaged"] is True
    assert lost and oracle


def test_files_of_a_damaged_point_are_read_and_the_damage_is_told(pitr: Pitr, vm: LabVM) -> None:
    first, second = chain(pitr, vm, 2)
    harm(blob_of(pitr, second))
    pitr("verify", code=3)
    listed = pitr("files", "ls", vm.name, "--at", "now", "--disk", "d1")
    assert "damaged" not in listed.stderr
    listed = pitr("files", "ls", vm.name, "--at", "now", "-o", "json")
    assert listed.json["backup_id"] == second["backup_id"]
    assert "damaged" in listed.stderr and first["backup_id"] in listed.stderr
    older = pitr.json("files", "ls", vm.name, "--at", "now", "--newest-good")
    assert older["backup_id"] == first["backup_id"]


def test_a_time_concerns_only_the_disks_that_you_ask_for(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    first, second = chain(pitr, vm, 2)
    harm(blob_of(pitr, second, disk=1))
    pitr("verify", code=3)
    of_good = pitr.json("restore", vm.name, "--at", "now", "--disk", "d0", "--to-file", tmp_path / "d0")
    assert of_good["point"]["backup_id"] == second["backup_id"]
    refused = pitr("restore", vm.name, "--at", "now", "--disk", "d1", "--to-file", tmp_path / "d1", code=3)
    assert first["backup_id"] in refused.complaint


def test_a_point_whose_record_is_lost_stays_known_after_a_rebuild(
    pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    first, second = chain(pitr, vm, 2)
    next(pitr.repository.glob(f"backups/*/*{second['backup_id']}.json")).unlink()
    pitr("verify", code=3)
    pitr("catalog", "rebuild")
    refused = pitr("restore", vm.name, "--at", "now", "--to-file", tmp_path / "x/", code=3)
    assert second["backup_id"] in refused.complaint and first["backup_id"] in refused.complaint
    taken = pitr.json("restore", vm.name, "--at", "now", "--newest-good", "--to-file", tmp_path / "x/")
    assert taken["point"]["backup_id"] == first["backup_id"]
    pitr("verify", "--quick", code=3)


def test_newest_good_goes_with_a_time(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    (point,) = chain(pitr, vm, 1)
    refused = pitr(
        "restore", "--point", point["backup_id"], "--newest-good", "--to-file", tmp_path / "x/", code=2
    )
    assert "--at" in refused.complaint


def test_a_missing_blob_is_met_before_anything_is_written(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    first, second = chain(pitr, vm, 2)
    blob_of(pitr, second).unlink()
    refused = pitr("restore", vm.name, "--at", "now", "--to-file", tmp_path / "x/", code=3)
    assert first["backup_id"] in refused.complaint and not (tmp_path / "x").exists()
    assert damaged(pitr) == {second["backup_id"]}


def test_a_lost_vm_has_no_good_point(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    (point,) = chain(pitr, vm, 1)
    harm(blob_of(pitr, point))
    pitr("verify", code=3)
    for more in ([], ["--newest-good"]):
        refused = pitr("restore", vm.name, "--at", "now", "--to-file", tmp_path / "x/", *more, code=3)
        assert "no good point" in refused.complaint


def test_the_findings_of_a_removed_point_go_with_it(pitr: Pitr, vm: LabVM) -> None:
    first, _ = chain(pitr, vm, 2)
    harm(blob_of(pitr, first))
    pitr("verify", code=3)
    change(vm, 3)
    full = pitr.backup(vm.name, "--full")
    pitr("prune", "--keep-last", "1")
    assert [point["backup_id"] for point in pitr.json("list")["points"]] == [full["backup_id"]]
    assert findings(pitr) == []
    assert pitr.json("verify", "--quick")["ok"] is True
