# SPDX-License-Identifier: GPL-2.0-or-later
"""The first backup of a disk uses the frames that siblings have stored at the same place."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from pitr.lab import Lab, LabVM
from pitr.repository import Repository
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of
from tests.support.pitr import Pitr
from tests.support.points import flip_bit
from tests.support.sealed import ALICE, BOB

TEMPLATE = "5f9e1d0c-5c0b-4a3e-9f3c-2b9a4f6a1e11"
SIZE = 6 * MiB


def clone(
    lab: Lab, number: int, *, template: str | None = None, thin: bool = True, size: int = SIZE
) -> LabVM:
    """A running VM with the template's disk and 64 KiB of its own."""
    vm = lab.add_vm(f"clone-{number}-{random.getrandbits(32):08x}", template_id=template, thin=thin)
    vm.add_disk("system", size, bootable=True)
    vm.start()
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(11).randbytes(4 * MiB))
        guest.write(2 * MiB + 64 * KiB, random.Random(number).randbytes(64 * KiB))
    return vm


def stored(point: Any) -> int:
    return int(point["stored_bytes"])


def test_like_stores_only_what_the_other_vm_does_not_have(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    first, second = clone(lab, 1), clone(lab, 2)
    base = pitr.backup(first.name)
    with oracle_of(lab, tmp_path / "2") as oracle:
        point = pitr.backup(second.name, "--like", first.name)
    assert (point["kind"], point["parent_id"], point["disks"][0]["changes"]) == ("full", None, None)
    assert stored(point) < 66 * KiB < stored(base)
    assert_restores(pitr, lab, point, oracle, tmp_path)
    assert pitr.json("verify")["ok"]
    # The chain goes on as any other one.
    with second.disks[0].guest() as guest:
        guest.write(0, b"A" * 4096)
    with oracle_of(lab, tmp_path / "3") as oracle:
        after = pitr.backup(second.name, "--no-fallback")
    assert (after["kind"], after["parent_id"]) == ("incremental", point["backup_id"])
    assert_restores(pitr, lab, after, oracle, tmp_path)


def test_vms_of_a_template_share_by_themselves_and_show_says_with_whom(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vms = [clone(lab, number, template=TEMPLATE, thin=number != 2) for number in range(3)]
    lone = clone(lab, 3)
    points: list[Any] = []
    for number, vm in enumerate(vms):
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append(pitr.backup(vm.name))
        assert_restores(pitr, lab, points[-1], oracle, tmp_path)
    assert all(stored(point) < 66 * KiB for point in points[1:])
    assert stored(pitr.backup(lone.name)) > 4 * MiB
    shown = pitr.json("show", points[1]["backup_id"])
    (shared,) = shown["point"]["disks"][0]["shared"]
    assert shared["vm"] == {"id": vms[0].id, "name": vms[0].name}
    assert (shared["disk_id"], shared["bytes"]) == (vms[0].disks[0].id, 4 * MiB - 64 * KiB)
    assert shown["point"]["disks"][0]["data_bytes"] == 4 * MiB
    assert shown["chain"][0]["disks"][0]["shared"] == [shared]
    assert pitr.json("show", points[0]["backup_id"])["point"]["disks"][0]["shared"] == []
    text = " ".join(pitr("show", points[1]["backup_id"]).stdout.split())
    assert f"Disk system shares 3.94 MiB with disk {vms[0].disks[0].id} of VM {vms[0].name}" in text
    assert pitr.json("verify")["ok"]
    full = pitr.backup(vms[1].name, "--full")
    assert stored(full) > 4 * MiB


def test_a_disk_of_the_template_s_vm_that_has_nothing_in_common_is_an_ordinary_full(
    lab: Lab, pitr: Pitr
) -> None:
    first = clone(lab, 1, template=TEMPLATE)
    other = lab.add_vm("other", template_id=TEMPLATE)
    other.add_disk("data", SIZE)
    other.start()
    with other.disks[0].guest() as guest:
        guest.write(0, random.Random(5).randbytes(MiB))
    pitr.backup(first.name)
    point = pitr.backup(other.name)
    with Repository.open(pitr.repository) as repository:
        backup = repository.catalog.get(point["backup_id"])
        assert backup is not None and backup.streams[0].parts == ()


def test_what_is_shared_outlives_the_sibling_in_every_kind_of_removal(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    first, second, third = (clone(lab, number, template=TEMPLATE) for number in range(3))
    pitr.backup(first.name)
    with oracle_of(lab, tmp_path / "2") as oracle:
        point = pitr.backup(second.name)
    pitr.backup(third.name)
    pitr("backup", first.name, "--full")
    pitr("prune", first.name, "--keep-last", "1")
    assert_restores(pitr, lab, point, oracle, tmp_path)
    pitr("forget", first.name, "--all")
    pitr("prune", "--keep-last", "1")
    assert not pitr.json("list")["points"] or pitr.json("verify")["ok"]
    assert_restores(pitr, lab, point, oracle, tmp_path)
    (shared,) = pitr.json("show", point["backup_id"])["point"]["disks"][0]["shared"]
    assert shared["vm"] == {"id": first.id, "name": first.name}
    with second.disks[0].guest() as guest:
        guest.write(MiB, b"A" * MiB)
    with oracle_of(lab, tmp_path / "3") as oracle:
        point = pitr.backup(second.name)
    consolidated = pitr.json("consolidate", second.name)["created"][0]
    assert_restores(pitr, lab, consolidated, oracle, tmp_path)
    (disk,) = pitr.json("show", consolidated["backup_id"])["point"]["disks"]
    assert disk["shared"] == [{**shared, "bytes": 3 * MiB - 64 * KiB}]
    # The VM itself goes last, with what it shared.
    pitr("forget", second.name, "--all")
    pitr("forget", third.name, "--all")
    lone = make_vm(lab, MiB)
    pitr.backup(lone.name)
    for path in (pitr.repository / "blobs").glob("*/*"):
        os.utime(path, (0, 0))
    pitr("prune", "--keep-last", "1")
    assert {path.parent.name for path in pitr.repository.glob("blobs/*/*")} == {lone.disks[0].id}


def test_damage_in_a_shared_blob_names_all_points_that_depend_on_it(lab: Lab, pitr: Pitr) -> None:
    first, second = clone(lab, 1), clone(lab, 2)
    base = pitr.backup(first.name)
    point = pitr.backup(second.name, "--like", first.name)
    with second.disks[0].guest() as guest:
        guest.write(0, b"A" * 4096)
    after = pitr.backup(second.name)
    (blob,) = (pitr.repository / "blobs" / first.disks[0].id).iterdir()
    good = blob.read_bytes()
    flip_bit(blob, len(good) // 2)
    every = {base["backup_id"], point["backup_id"], after["backup_id"]}
    for scope in ([], [first.name], [second.name]):
        found = pitr.json("verify", *scope, code=3)["damage"]
        assert found and all(set(damage["points_lost"]) == every for damage in found)
        for vm in (first, second):
            assert all(listed["damaged"] for listed in pitr.json("list", vm.name)["points"])
    # No new point depends on it.
    assert pitr.backup(second.name)["kind"] == "full"
    assert (
        pitr.json("show", pitr.backup(clone(lab, 3).name, "--like", first.name)["backup_id"])["point"][
            "disks"
        ][0]["shared"]
        == []
    )
    blob.write_bytes(good)
    assert pitr.json("verify", first.name)["ok"]
    for vm in (first, second):
        assert not any(listed["damaged"] for listed in pitr.json("list", vm.name)["points"])


def test_like_refuses_a_vm_that_is_nowhere(lab: Lab, pitr: Pitr) -> None:
    vm = clone(lab, 1)
    assert "nowhere" in pitr("backup", vm.name, "--like", "nowhere", code=4).stderr
    assert "--like" in pitr("backup", vm.name, "--like", vm.name, "--to", "-", code=2).stderr


def test_a_sealed_repository_shares_with_an_identity_and_stores_all_without_one(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    place = tmp_path / "sealed"
    key = tmp_path / "alice.key"
    key.write_text(f"{ALICE.secret()}\n")
    key.chmod(0o600)
    environment = {**pitr.environment, "XDG_STATE_HOME": str(tmp_path / "state"), "PITR_REPO": str(place)}
    pitr = Pitr(environment)
    with Repository.create(place, recipients=[str(each.recipient) for each in (ALICE, BOB)]):
        pass
    first, second, third = clone(lab, 1), clone(lab, 2), clone(lab, 3)
    pitr.backup(first.name, "--trust-recipients")
    blind = pitr.backup(second.name, "--like", first.id)
    assert stored(blind) > 4 * MiB
    pitr.environment["PITR_IDENTITY_FILE"] = str(key)
    with oracle_of(lab, tmp_path / "3") as oracle:
        point = pitr.backup(third.name, "--like", first.name)
    assert stored(point) < 70 * KiB
    assert_restores(pitr, lab, point, oracle, tmp_path)
    assert pitr.json("verify")["ok"]
    (shared,) = pitr.json("show", point["backup_id"])["point"]["disks"][0]["shared"]
    assert shared["vm"] == {"id": first.id, "name": first.name}
    del pitr.environment["PITR_IDENTITY_FILE"]
    (shared,) = pitr.json("show", point["backup_id"])["point"]["disks"][0]["shared"]
    assert shared["vm"] == {"id": first.id, "name": None}
