# SPDX-License-Identifier: GPL-2.0-or-later
"""After a restore in place, names and ids of disks find the disk before and after it."""

from __future__ import annotations

from pathlib import Path

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB
from tests.support.pitr import Pitr


def _replaced(lab: Lab, pitr: Pitr, name: str = "system") -> tuple[LabVM, str, str, str, str]:
    """Back up a VM, replace its disks, and back it up again; return the VM, old and new disk id, both points."""
    vm = lab.add_vm("web")
    vm.add_disk(name, MiB, bootable=True)
    vm.add_disk("data", MiB)
    before = pitr.backup("web")["backup_id"]
    old = vm.disks[0].id
    pitr("restore", "--at", "now", "--replace", "--disk", name)
    new = next(disk.id for disk in vm.disks if disk.bootable)
    assert new != old
    after = pitr.backup("web")["backup_id"]
    return vm, old, new, before, after


def test_names_and_ids_find_the_disk_before_and_after(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm, old, new, before, after = _replaced(lab, pitr)
    pitr("catalog", "rebuild")
    for number, disk in enumerate(("system", old, new)):
        for point, expected in ((before, old), (after, new)):
            target = tmp_path / f"{number}-{point}.raw"
            document = pitr.json("restore", "--point", point, "--disk", disk, "--to-file", target)
            assert [each["disk_id"] for each in document["disks"]] == [expected]
            assert pitr.json("extents", point, "--disk", disk)["disk_id"] == expected
        for choice, chosen in (("--disk", True), ("--exclude-disk", False)):
            point = pitr.backup("web", choice, disk)
            assert (new in {each["disk_id"] for each in point["disks"]}) is chosen
    pitr("restore", "--point", before, "--disk", "nothing", "--to-file", tmp_path / "x", code=4)
    pitr("backup", "web", "--disk", "nothing", code=4)


def test_diff_pairs_the_disk_with_its_successor(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm, old, new, before, after = _replaced(lab, pitr)
    for disks in ([], ["--disk", "system"], ["--disk", old], ["--disk", new]):
        document = pitr.json("diff", "--point", before, "--point", after, *disks)
        system = next(disk for disk in document["disks"] if disk["name"] == "system")
        assert (system["disk_id"], system["previous_disk_id"]) == (new, old)
        assert system["state"] == "same" and system["size_before"] == system["size_after"] == MiB
        assert len(document["disks"]) == (1 if disks else 2)
    page = tmp_path / "page.html"
    pitr("diff", "--point", before, "--point", after, "--html", page)
    assert page.stat().st_size
    out = tmp_path / "system.sparse"
    pitr("export", "--point", after, "--since", before, "--disk", "system", "--to", out)


def test_a_second_restore_in_place_replaces_the_successor(lab: Lab, pitr: Pitr) -> None:
    vm, old, new, before, after = _replaced(lab, pitr)
    pitr("restore", "--point", before, "--replace", "--disk", "system")
    disks = {disk.name: disk for disk in vm.disks}
    assert disks.keys() == {"system", "data"} and disks["system"].bootable
    newest = disks["system"].id
    assert newest not in {old, new}
    assert lab.disk(new).name.startswith("system_replaced_")
    document = pitr.json("restore", "--point", after, "--disk", newest, "--dry-run")
    assert document["disks"][0]["disk_id"] == new


def test_an_alias_that_had_to_change_finds_the_disk_before_and_after(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    _vm, old, new, before, after = _replaced(lab, pitr, "disk 1 [old]")
    assert lab.disk(new).name == "disk_1__old_"
    for disk in ("disk 1 [old]", "disk_1__old_"):
        for point, expected in ((before, old), (after, new)):
            document = pitr.json("restore", "--point", point, "--disk", disk, "--dry-run")
            assert [each["disk_id"] for each in document["disks"]] == [expected]
        assert len(pitr.backup("web", "--disk", disk)["disks"]) == 1


def test_a_vm_that_comes_back_under_its_id_goes_on_with_new_disks(lab: Lab, pitr: Pitr) -> None:
    vm = lab.add_vm("web")
    old = vm.add_disk("system", MiB).id
    before = pitr.backup("web")["backup_id"]
    vm.remove()
    pitr("restore", "--at", "now", "--as-new-vm", "web")
    after = pitr.backup("web")["backup_id"]
    document = pitr.json("diff", "--point", before, "--point", after)
    assert [disk["previous_disk_id"] for disk in document["disks"]] == [old]
    assert document["disks"][0]["state"] == "same"


def test_a_repository_that_is_not_writable_is_told(lab: Lab, pitr: Pitr) -> None:
    from unittest import mock

    from pitr.errors import RepositoryError

    vm = lab.add_vm("web")
    vm.add_disk("system", MiB)
    pitr.backup("web")
    with mock.patch("pitr.repository.successions.add", side_effect=RepositoryError("read-only")):
        done = pitr("restore", "--at", "now", "--replace")
    assert "cannot note" in done.stderr and [disk.name for disk in vm.disks] == ["system"]
