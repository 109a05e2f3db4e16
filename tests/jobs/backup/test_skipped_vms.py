# SPDX-License-Identifier: GPL-2.0-or-later
"""A nightly backup leaves out VMs that are gone, retired or only imported: one note, and no failure."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pitr.lab import Lab
from tests.support.lab import MiB
from tests.support.pitr import Pitr


def _vm(lab: Lab, name: str, tags: list[str] | None = None) -> None:
    vm = lab.add_vm(name, tags=tags or [])
    vm.add_disk("system", MiB, bootable=True)
    vm.start()


def _import(pitr: Pitr, folder: Path, name: str) -> None:
    image = folder / f"{name}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(MiB)], check=True)
    pitr("import", "qcow2", image, "--vm", name, "--disk", "system", "--time", "2020-06-30T22:00Z")


def _skipped(document: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {skipped["vm"]: skipped["reason"] for skipped in document["skipped"]}


def test_vms_that_are_gone_or_only_imported_are_skipped_with_one_note(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    for name in ("web1", "gone1", "again1"):
        _vm(lab, name)
        pitr.backup(name)
    _import(pitr, tmp_path, "imported1")
    for name in ("gone1", "again1"):
        lab.vm(name).stop()
        lab.vm(name).remove()
    _vm(lab, "again1")

    planned = pitr.json("backup", "--incremental", "--dry-run")
    assert [plan["vm_name"] for plan in planned["plans"]] == ["web1"]
    result = pitr("backup", "--incremental", "-o", "json")
    skipped = _skipped(result.json)
    assert _skipped(planned) == skipped
    assert set(skipped) == {"gone1", "again1", "imported1"}
    assert "does not have it any more" in skipped["gone1"]
    assert "another VM has its name" in skipped["again1"]
    assert "only imported" in skipped["imported1"]
    assert [point["vm"]["name"] for point in result.json["backups"]] == ["web1"]
    assert result.json["failed"] == []
    assert len([line for line in result.stderr.splitlines() if "skipped" in line]) == 1

    shown = pitr("backup")
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.split()[:1] == ["gone1"]] == [
        "skipped"
    ]
    # A VM that you name must exist.
    assert pitr("backup", "gone1", code=4)
    # The failure of another VM is still one.
    lab.engine.set_vm(lab.vm("web1").id, previewing=True)
    failed = pitr("backup", "--busy-wait", "0s", "-o", "json", code=1).json
    assert [each["vm"] for each in failed["failed"]] == ["web1"]
    assert set(_skipped(failed)) == set(skipped)


def test_a_repository_whose_vms_are_all_gone_is_no_failure(lab: Lab, pitr: Pitr) -> None:
    _vm(lab, "gone1")
    pitr.backup("gone1")
    lab.vm("gone1").stop()
    lab.vm("gone1").remove()
    document = pitr.json("backup", "--incremental")
    assert set(_skipped(document)) == {"gone1"}
    assert (document["backups"], document["failed"]) == ([], [])
    assert "skipped" in pitr("backup").stdout


def test_a_retired_vm_keeps_its_points_and_is_left_out_until_it_is_named(lab: Lab, pitr: Pitr) -> None:
    for name in ("web1", "old1"):
        _vm(lab, name, ["daily"])
        pitr.backup(name)
    assert pitr("forget", "nosuch", "--retire", code=4)
    assert pitr("forget", "old1", "--retire", "--all", code=2)
    planned = pitr.json("forget", "old1", "--retire", "--dry-run")
    assert not list((pitr.repository / "retired").glob("*"))
    done = pitr.json("forget", "old1", "--retire")
    assert {**done, "dry_run": True} == planned
    assert [vm["name"] for vm in done["retired"]] == ["old1"]
    assert (done["removed"], [point["kept_by"] for point in done["kept"]]) == ([], [["retired"]])
    assert "retired" in pitr("forget", "old1", "--retire").stdout

    # It is no part of the catalog.
    pitr("catalog", "rebuild")
    (pitr.repository / "catalog.db").unlink()
    for choice in ((), ("--tag", "daily"), ("--all",)):
        document = pitr.json("backup", "--incremental", *choice)
        assert [point["vm"]["name"] for point in document["backups"]] == ["web1"], choice
        assert "retired" in _skipped(document)["old1"]
    assert pitr.backup("old1")["vm"]["name"] == "old1"
    assert len(pitr.json("list", "old1")["points"]) == 2
    assert pitr.json("verify")["ok"]

    assert pitr("forget", "web1", "--unretire", code=4)
    assert [vm["name"] for vm in pitr.json("forget", "old1", "--unretire")["unretired"]] == ["old1"]
    document = pitr.json("backup", "--incremental")
    assert {point["vm"]["name"] for point in document["backups"]} == {"web1", "old1"}
    assert document["skipped"] == []
