# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages about the night and about losses: their commands work, one after the other, as they stand there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB
from tests.support.page_machine import PageMachine, blocks

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def machine(tmp_path: Path) -> PageMachine:
    return PageMachine(tmp_path)


def _add_vm(lab: Lab) -> LabVM:
    vm = lab.add_vm("web1", tags=["daily"])
    disk = vm.add_disk("system", 8 * MiB, bootable=True)
    vm.start()
    with disk.guest() as guest:
        guest.write(0, b"first" * 1000)
    return vm


def _for(lab: Lab, page: str) -> Iterator[str]:
    """Yield the blocks of a page with the address and the user of the lab instead of the engine's."""
    for block in blocks(DOCS / page):
        yield block.replace(
            "https://engine.example.com", lab.engine_url.removesuffix("/ovirt-engine/api")
        ).replace("backup@internal", lab.username)


def test_the_night_works_word_for_word(machine: PageMachine, lab: Lab) -> None:
    _add_vm(lab)
    said: list[str] = []
    for block in _for(lab, "night.md"):
        said.append(machine.run(block, typed=f"{lab.password}\n"))
    of = {block.split("\n")[0]: text for block, text in zip(blocks(DOCS / "night.md"), said, strict=True)}
    dry_run = of["pitr run nightly --dry-run"]
    assert "web1" in dry_run and "1 of 1" not in of["pitr init"]
    calls = machine.calls.read_text().splitlines()
    assert calls[:3] == ["daemon-reload", "enable pitr-nightly.timer", "restart pitr-nightly.timer"]
    assert calls[3] == "start pitr-nightly.service"
    assert "test" in machine.notice.read_text()
    assert machine.path("/etc/pitr/password").stat().st_mode & 0o777 == 0o600
    assert not list(machine.path("/etc/systemd/system").glob("pitr*"))
    runs = json.loads(machine.run("pitr history --output json"))["runs"]
    ran = [run for run in runs if run["command"] == "run"]
    assert len(ran) == 2 and all(run["ok"] and run["policy"] == "nightly" for run in ran)
    points = json.loads(machine.run("pitr list --output json --repo /mnt/second/pitr"))["points"]
    assert [point["vm"]["name"] for point in points] == ["web1", "web1"]


def test_the_losses_are_undone_word_for_word(machine: PageMachine, lab: Lab, tmp_path: Path) -> None:
    vm = _add_vm(lab)
    night = list(_for(lab, "night.md"))
    for block in night[:4]:
        machine.run(block, typed=f"{lab.password}\n")
    machine.run(
        "rsync -a /srv/backup/pitr/ /mnt/second/pitr/ --mkpath && rsync -a /etc/pitr/ /mnt/second/etc-pitr/"
    )
    # The fire.
    machine.run("rm -r /srv/backup /etc/pitr")
    [copied, went_on, engine_lost, vms_lost, retired, no_ovirt] = _for(lab, "losing.md")
    machine.run(f"mkdir -p /srv/backup\n{copied}")
    assert "incremental" in machine.run(went_on)
    assert "web1" in machine.run(engine_lost)
    oracle = tmp_path / "oracle"
    vm.disks[0].copy_content(oracle)
    vm.stop()
    vm.remove()
    machine.run(vms_lost)
    with lab.engine.state.lock:
        [new_id] = [vm_id for vm_id, each in lab.engine.state.vms.items() if each.name == "web1"]
    new = lab.vm(new_id)
    copy = tmp_path / "copy"
    new.disks[0].copy_content(copy)
    assert copy.read_bytes()[: 8 * MiB] == oracle.read_bytes()
    said = machine.run(retired)
    assert said.count("web1") >= 3
    machine.run(no_ovirt)
    assert machine.path("/srv/rescue/web1/system.qcow2").exists()
