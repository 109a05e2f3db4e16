# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.errors import EngineError, NoSuchVM
from pitr.lab import Lab
from pitr.lab.lab import LabVM
from pitr.ovirt.engine import Engine, get_vm, load_config, shut_down_vm, start_vm


@pytest.fixture
def engine(lab: Lab) -> Iterator[Engine]:
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05, retry_pause_s=0.01) as engine:
        yield engine


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    vm = lab.add_vm("web1")
    vm.add_disk("system", 1 << 20)
    vm.start()
    return vm


def test_a_vm_is_down_afterwards_and_can_start_again(lab: Lab, engine: Engine, vm: LabVM) -> None:
    shut_down_vm(engine, vm.id)
    assert (get_vm(engine, vm.id).status, lab.host.is_running(vm.id)) == ("down", False)
    lab.engine.forget_requests()
    shut_down_vm(engine, vm.id)
    assert not [request for request in lab.engine.requests if request.method == "POST"]
    start_vm(engine, vm.id)
    assert lab.host.is_running(vm.id)


def test_a_guest_that_does_not_shut_down_is_not_switched_off(lab: Lab, engine: Engine, vm: LabVM) -> None:
    lab.engine.set_vm(vm.id, ignores_shutdown=True)
    with pytest.raises(EngineError, match=r"'web1' is not down .* \(it is up\)") as caught:
        shut_down_vm(engine, vm.id, timeout_s=0.1)
    assert "Shut the guest down yourself" in caught.value.advice
    assert lab.host.is_running(vm.id)


def test_a_lost_answer_does_not_matter(lab: Lab, engine: Engine, vm: LabVM) -> None:
    lab.engine.faults.drop_connection("POST", "/shutdown$", handled=True, times=3)
    shut_down_vm(engine, vm.id)
    assert not lab.host.is_running(vm.id)
    with pytest.raises(NoSuchVM):
        shut_down_vm(engine, "00000000-0000-4000-8000-000000000000")
