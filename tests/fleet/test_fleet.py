# SPDX-License-Identifier: GPL-2.0-or-later
"""A real scheduler and real workers: each VM gets one point, whatever dies."""

from __future__ import annotations

import pytest

from pitr.lab import Lab
from tests.support.fleet import fleet_of
from tests.support.lab import MiB, nothing_open
from tests.support.lab_host import children_of
from tests.support.pitr import Pitr, ended, wait_until


@pytest.fixture
def vms(lab: Lab) -> list[str]:
    names = [f"web{number}" for number in range(3)]
    for name in names:
        vm = lab.add_vm(name)
        vm.add_disk("system", MiB, bootable=True)
        vm.start()
        with vm.disks[0].guest() as guest:
            guest.write(0, name.encode() * 1000)
    return names


def test_a_killed_worker_costs_no_vm_its_point(lab: Lab, pitr: Pitr, vms: list[str]) -> None:
    host = lab.engine.state.host_id
    with fleet_of(pitr) as fleet:
        fleet.scheduler()
        home = fleet.worker("--slots", "3", "--host-id", host)
        away = fleet.worker("--slots", "3")
        # Readiness takes its time: the kill comes when all wait for it.
        lab.engine.phase_lag_s = 0.3
        with pitr.process("backup", *vms, "--scheduler", fleet.address, "-o", "json") as process:
            wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
            children = [
                child for template in children_of(home.process.pid) for child in children_of(template)
            ]
            assert children
            home.kill()
            done = ended(process)
        lab.engine.phase_lag_s = 0.01
        assert done.code == 0, done
        assert sorted(point["vm"]["name"] for point in done.json["backups"]) == vms
        assert done.stderr.count("pitr starts the task again") == 3
        assert "taking a full backup of VM web0" in done.stderr
        wait_until(lambda: not children_of(home.process.pid), "the children of the killed worker")
        assert len(pitr.json("list")["points"]) == 3
        assert nothing_open(lab)
        # A worker that stops in order leaves with 0, and nobody waits for one that is not there.
        assert away.stop() == 0
        alone = pitr.json("backup", "web0", "--scheduler", fleet.address)
        assert alone["backups"][0]["kind"] == "incremental"
    assert pitr.json("verify")["ok"]
