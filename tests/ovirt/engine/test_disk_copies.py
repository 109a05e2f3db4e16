# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of disks that the engine makes, and their removal after a failure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.errors import EngineBusy, EngineError, NoSuchDisk, UsageError
from pitr.lab import Lab
from pitr.lab.lab import LabDisk
from pitr.ovirt.engine import Engine, copy_disk, disks_with_alias, load_config
from pitr.ovirt.engine.disks import wait_until_ok
from tests.support.sdk_client import content_of

MIB = 1 << 20


@pytest.fixture
def engine(lab: Lab) -> Iterator[Engine]:
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05, retry_pause_s=0.01) as engine:
        yield engine


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> LabDisk:
    old = tmp_path / "old"
    old.write_bytes(b"o" * MIB)
    return lab.add_disk("system", 2 * MIB, content=old)


def only(lab: Lab, disk: LabDisk) -> bool:
    return [each.id for each in lab.disks] == [disk.id]


@pytest.mark.parametrize("disk_format", ["cow", "raw"])
def test_a_copy_has_the_data_and_the_format_and_can_be_in_another_domain(
    lab: Lab, engine: Engine, tmp_path: Path, disk_format: str
) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"x" * MIB)
    disk = lab.add_disk("system", 2 * MIB, content=content, format=disk_format)
    domain = lab.add_storage_domain("other")
    waited: list[float] = []
    copy = copy_disk(engine, disk.id, alias="system_copy", storage_domain_id=domain.id, waiting=waited.append)
    assert (copy.name, copy.size, copy.format, copy.status) == ("system_copy", 2 * MIB, disk_format, "ok")
    assert copy.storage_domain_ids == (domain.id,)
    assert disk.status == "ok"
    assert waited == sorted(waited) and waited
    assert content_of(lab.disk(copy.id), tmp_path) == b"x" * MIB + bytes(MIB)


def test_a_copy_goes_to_the_disks_own_domain(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    lab.add_storage_domain("other")
    copy = copy_disk(engine, disk.id, alias="copy")
    with lab.engine.state.lock:
        assert copy.storage_domain_ids == (lab.engine.state.disk(disk.id).storage_domain_id,)


def test_an_alias_in_use_is_refused_and_its_disk_stays(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    other = lab.add_disk("taken", MIB)
    with pytest.raises(UsageError, match=f"exists already: {other.id}"):
        copy_disk(engine, disk.id, alias="taken")
    with pytest.raises(UsageError, match="does not accept the alias"):
        copy_disk(engine, disk.id, alias="with blanks")
    with pytest.raises(NoSuchDisk):
        copy_disk(engine, "00000000-0000-4000-8000-000000000000", alias="copy")
    assert other.status == "ok"
    assert [each.id for each in disks_with_alias(engine, "taken")] == [other.id]
    assert disks_with_alias(engine, "TAKEN") == []


def test_a_copy_that_fails_is_an_error_and_leaves_nothing(
    lab: Lab, engine: Engine, disk: LabDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitr.ovirt.engine.disk_copies._APPEARS_S", 1.0)
    lab.engine.faults.fail("disk copy")
    with pytest.raises(EngineError, match=r"disappeared|no disk 'copy' has appeared"):
        copy_disk(engine, disk.id, alias="copy")
    assert only(lab, disk)


def test_an_interrupt_removes_the_copy(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    def interrupt(_waited_s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        copy_disk(engine, disk.id, alias="copy", waiting=interrupt)
    assert only(lab, disk) and not hasattr(caught.value, "__notes__")


def test_a_copy_that_cannot_be_removed_is_named(
    lab: Lab, engine: Engine, disk: LabDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitr.ovirt.engine.disk_copies._REMOVAL_S", 0.0)
    with lab.engine.phases_held(), pytest.raises(EngineError, match="is still locked") as caught:
        copy_disk(engine, disk.id, alias="copy", timeout_s=0.0)
    (copy,) = disks_with_alias(engine, "copy")
    assert re.search(f"{copy.id}.*remove it by hand", caught.value.__notes__[0])
    wait_until_ok(engine, copy.id, 60)


def test_a_lost_answer_does_not_lose_the_copy(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    lab.engine.faults.drop_connection("POST", "/copy$", handled=True)
    copy = copy_disk(engine, disk.id, alias="copy")
    assert {each.id for each in lab.disks} == {disk.id, copy.id}


def test_a_locked_disk_is_busy(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    lab.engine.set_disk_status(disk.id, "locked")
    with pytest.raises(EngineBusy, match="locked"):
        copy_disk(engine, disk.id, alias="copy")
    lab.engine.set_disk_status(disk.id, "ok")
    assert only(lab, disk)
