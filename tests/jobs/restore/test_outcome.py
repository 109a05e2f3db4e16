# SPDX-License-Identifier: GPL-2.0-or-later
"""A restore tells where the disks go and what runs then; the dry run tells it before."""

from __future__ import annotations

from pathlib import Path

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB
from tests.support.pitr import Pitr


def _vm(lab: Lab, pitr: Pitr, name: str = "web") -> LabVM:
    vm = lab.add_vm(name, nics=["nic1"])
    vm.add_disk("system", 4 * MiB, bootable=True)
    vm.add_disk("data [1]", 2 * MiB, format="raw", sparse=False)
    vm.start()
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(0, b"x" * MiB)
    pitr.backup(name)
    return vm


def test_the_dry_run_tells_names_formats_domains_and_free_space(lab: Lab, pitr: Pitr) -> None:
    _vm(lab, pitr)
    domain = lab.engine.state.disk(lab.vm("web").disks[0].id).storage_domain_id
    planned = pitr.json("restore", "--at", "now", "--as-new-vm", "web-new", "--dry-run")
    assert planned["vm_id"] is None
    assert planned["vm"]["name"] == "web-new" and planned["vm"]["twin"]["name"] == "web"
    assert planned["places"] == [
        {
            "disk_id": disk["disk_id"],
            "name": name,
            "format": disk_format,
            "sparse": sparse,
            "available": 1 << 42,
            "storage_domain_id": domain,
            "storage_domain": "data",
            "status": None,
        }
        for disk, (name, disk_format, sparse) in zip(
            planned["disks"], (("system", "cow", True), ("data__1_", "raw", False)), strict=True
        )
    ]
    text = pitr("restore", "--at", "now", "--as-new-vm", "web-new", "--dry-run").stdout
    for word in ("system", "data__1_", "qcow2", "raw", "preallocated", "storage domain data", "4 TiB free"):
        assert word in text
    replaced = pitr("restore", "--at", "now", "--disk", "system", "--dry-run").stdout
    assert "system_restored_" in replaced


def test_the_result_tells_names_and_states(lab: Lab, pitr: Pitr) -> None:
    vm = _vm(lab, pitr)
    document = pitr.json("restore", "--at", "now", "--as-new-vm", "web-new")
    assert document["vm"] == {
        "id": lab.vm("web-new").id,
        "name": "web-new",
        "status": "down",
        "twin": {"id": vm.id, "name": "web", "status": "up"},
    }
    assert [place["status"] for place in document["places"]] == ["ok", "ok"]
    vm.stop()
    done = pitr("restore", "--at", "now", "--replace")
    assert f"VM web ({vm.id}): down" in done.stdout and "data__1_" in done.stdout
    assert "copy of" not in done.stderr


def test_a_twin_that_runs_now_is_told(lab: Lab, pitr: Pitr) -> None:
    vm = _vm(lab, pitr)
    done = pitr("restore", "--at", "now", "--as-new-vm", "web-new", "--start")
    assert "web-new now runs beside VM web" in done.stderr and "IP address" in done.stderr
    vm.stop()
    done = pitr("restore", "--at", "now", "--as-new-vm", "web-2")
    assert "copy of VM web, which is down" in done.stderr
    vm.remove()
    done = pitr("restore", "--at", "now", "--as-new-vm", "web")
    assert "copy of" not in done.stderr


def test_too_little_space_is_told_by_the_dry_run(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, pitr)
    [domain] = [each for each in lab.engine.state.storage_domains.values() if each.name == "data"]
    available, domain.available = domain.available, 2 * MiB
    try:
        done = pitr("restore", "--at", "now", "--dry-run")
        assert "only 2 MiB free" in done.stderr and "need 3 MiB" in done.stderr
        assert "free, and" not in pitr("restore", "--at", "now", "--dry-run", "--disk", "system").stderr
    finally:
        domain.available = available


def test_a_restore_to_files_tells_format_and_free_space(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, pitr)
    command = ("restore", "--at", "now", "--to-file", f"{tmp_path}/new/folder/", "--dry-run")
    document = pitr.json(*command)
    assert document["vm"] is None
    for disk, place in zip(document["disks"], document["places"], strict=True):
        assert place["name"] == disk["target"] and place["format"] == "raw"
        assert place["available"] > 0 and place["storage_domain"] is None
    text = pitr(*command).stdout
    assert "raw" in text and "free)" in text
