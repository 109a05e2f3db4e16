# SPDX-License-Identifier: GPL-2.0-or-later
"""One local oVirt, one repository and one gateway for each test process."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pitr.lab import Lab, LabVM
from tests.support.gateway import Gateway, running
from tests.support.lab import make_vm, nothing_open
from tests.support.pitr import Pitr, wait_until
from tests.support.points_over_http import Points

MiB = 1 << 20


@pytest.fixture
def lab(lab: Lab) -> Iterator[Lab]:
    """Give the gateway time to close the resources of a test's last request."""
    yield lab
    lab.engine.faults.clear()
    wait_until(lambda: nothing_open(lab), "nothing open")


@pytest.fixture(scope="package")
def shared_pitr(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Pitr:
    """The program with the lab's engine and one repository."""
    pitr = Pitr(
        {**shared_lab.environment(), "PITR_REPO": str(tmp_path_factory.mktemp("gateway") / "backups")}
    )
    pitr("init")
    return pitr


@pytest.fixture
def pitr(lab: Lab, shared_pitr: Pitr) -> Pitr:
    return shared_pitr


@pytest.fixture(scope="package")
def gateway(shared_pitr: Pitr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(shared_pitr.environment, tmp_path_factory.mktemp("running")) as gateway:
        yield gateway


@pytest.fixture(scope="package")
def points(shared_lab: Lab, shared_pitr: Pitr, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Points]:
    """Three points of a VM with two disks, and the content of the disks at those points."""
    vm = make_vm(shared_lab, 40 * MiB, 3 * MiB + 512)
    for number, disk in enumerate(vm.disks):
        with disk.guest() as guest:
            guest.write(0, random.Random(number).randbytes(min(disk.size, 33 * MiB)))
    points = Points.of(vm, tmp_path_factory.mktemp("points"))
    points.back_up(shared_lab, shared_pitr)
    for seed in (1, 2):
        for disk in vm.disks:
            with disk.guest() as guest:
                guest.write(seed * 70_000, random.Random(seed).randbytes(200_000))
                guest.zero(MiB + seed * 65536, 65536, unmap=False)
                guest.discard(2 * MiB, 131072)
        points.back_up(shared_lab, shared_pitr)
    vm.stop()
    yield points
    vm.remove()


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    """A running VM whose disk holds data, written zeroes, and unwritten ranges."""
    vm = make_vm(lab, 12 * MiB + 512)
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(1).randbytes(3 * MiB))
        guest.write(9 * MiB, b"old" * 100_000)
    return vm
