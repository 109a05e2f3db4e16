# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines that say less, say it in another order, later, or not for long: pitr takes nothing for granted."""

from __future__ import annotations

import os
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.lab import Lab, LabVM
from pitr.lab.engine import server
from pitr.ovirt.engine import connection as engine_connection
from pitr.system.retry import retrying
from tests.support.lab import (
    MiB,
    assert_disk_is,
    assert_restores,
    make_vm,
    nothing_open,
    oracle_of,
    scribble,
)
from tests.support.pitr import Pitr


@contextmanager
def answers_changed(change: Callable[[str, ET.Element], None]) -> Iterator[None]:
    """Change the engine's answers before they are sent: `change` gets the path and the document."""
    handler = server._Handler
    plain = handler._api_reply

    def changed(self: Any, path: str, body: bytes) -> server.ServedReply:
        reply = plain(self, path, body)
        if not reply.body or reply.status >= 400:
            return reply
        root = ET.fromstring(reply.body)  # noqa: S314 - the lab's own answer
        change(path, root)
        return reply._replace(body=ET.tostring(root))

    with mock.patch.object(handler, "_api_reply", changed):
        yield


def drop(root: ET.Element, *names: str) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag in names]:
            parent.remove(child)


def terse(path: str, root: ET.Element) -> None:
    """Only what the API promises to existing clients."""
    drop(root, "cluster", "custom_compatibility_version", "description", "actions", "link", "storage_type")
    drop(root, "content_type", "shareable", "total_size", "actual_size", "qcow_version", "propagate_errors")
    drop(root, "wipe_after_delete", "initial_size", "pass_discard", "read_only", "uses_scsi_reservation")
    drop(root, "alias", "host", "shallow", "transferred", "inactivity_timeout", "timeout_policy")
    if re.search(r"/storagedomains$", path):
        drop(root, "type", "master", "data_centers", "storage_format")
    if re.search(r"/backups/[^/]+/disks$", path):
        drop(root, "format", "storage_domains", "status", "provisioned_size", "name")
    if re.search(r"/imagetransfers", path):
        drop(root, "direction", "active", "format")
    if re.search(r"/diskattachments$", path):
        drop(root, "active", "interface", "bootable", "vm")
        for attachment in root:
            attachment.attrib.pop("id")
    if re.search(r"/checkpoints$", path):
        root[:] = list(reversed(root))
        drop(root, "creation_date", "state")


def chain(lab: Lab, pitr: Pitr, vm: LabVM, folder: Path, count: int = 3, *options: str) -> list[Any]:
    """Back a VM up, again and again; each point restores in all ways."""
    chance = random.Random(vm.name)
    made = []
    for number in range(count):
        for disk in vm.disks:
            with disk.guest() as guest:
                scribble(guest, chance, disk.size, writes=5)
        with oracle_of(lab, folder / str(number)) as oracle:
            made.append((pitr.backup(vm.name, *options), oracle))
    for point, oracle in made:
        assert_restores(pitr, lab, point, oracle, folder, ways="raw disks")
    assert [point["kind"] for point, _ in made] == ["full", *["incremental"] * (count - 1)]
    return [point for point, _ in made]


@pytest.mark.parametrize("compat", ["4.6", "4.7"])
def test_an_engine_of_few_words(lab: Lab, pitr: Pitr, tmp_path: Path, compat: str) -> None:
    vm = make_vm(lab, 2 * MiB, MiB, compat=compat, formats=("cow", "raw"))
    with answers_changed(terse):
        points = chain(lab, pitr, vm, tmp_path)
    assert {point["mode"] for point in points} == {"live" if compat == "4.6" else "hybrid"}


def test_an_engine_without_a_configuration_for_the_vm(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB)
    with answers_changed(lambda path, root: drop(root, "initialization")):
        said = pitr("backup", vm.name).stderr
    assert "configuration" in said


def test_paths_that_an_engine_does_not_have(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    for path in (r"/clusters", r"/datacenters", r"/hosts", r"/events", r"/jobs", r"/snapshots", r"/tags"):
        lab.engine.faults.next(".*", path, status=501, times=1000)
    chain(lab, pitr, vm, tmp_path, 2)


def test_an_engine_that_forgets_what_has_ended_at_once(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    lab.engine.keep_ended(success_s=0, failure_s=0)
    chain(lab, pitr, make_vm(lab, 2 * MiB, MiB), tmp_path)


def test_an_engine_that_is_slow(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    lab.engine.phase_lag_s = 0.15
    chain(lab, pitr, make_vm(lab, 2 * MiB), tmp_path, 2)


def test_the_newest_checkpoint_invalid_makes_a_comparison(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    chain(lab, pitr, vm, tmp_path, 2)
    lab.engine.invalidate_checkpoint(vm.checkpoints[-1])
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert point["disks"][0]["changes"] == "compared" and "invalid" in point["reason"]
    assert_restores(pitr, lab, point, oracle, tmp_path)


@pytest.mark.parametrize("workers", ["1", "16"])
def test_any_number_of_workers(lab: Lab, pitr: Pitr, tmp_path: Path, workers: str) -> None:
    vm = make_vm(lab, 2 * MiB, MiB, MiB, 512)
    chain(lab, pitr, vm, tmp_path, 2, "--max-workers", workers)


def test_a_disk_of_many_tenants_a_lun_and_one_that_is_inactive_are_left_out(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, MiB, MiB, MiB, MiB)
    with lab.engine.state.lock:
        lab.engine.state.disks[vm.disks[1].id].shareable = True
        for disk in vm.disks[2:]:
            lab.engine.state.vm(vm.id).attachments[disk.id].active = False
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert [disk["name"] for disk in point["disks"]] == ["d0"]
    assert {item["name"] for item in point["left_out"]} == {"d1", "d2", "d3"}
    assert pitr.json("list")["points"] == [point] and pitr.json("catalog", "check")["ok"]
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_names_that_are_no_file_names(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB)
    names = ["../../../etc/cron.d/x", "a/b", "a/b", ".", "..", "\x9b31mred\n", "x" * 250, "größe", "-rf"]
    for name in names:
        vm.add_disk("later", 4096)
        with lab.engine.state.lock:
            lab.engine.state.disks[vm.disks[-1].id].name = name
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        result = pitr("backup", vm.name)
        point = pitr.json("list")["points"][0]
    assert "\x9b" not in result.stdout + result.stderr + pitr("show", point["backup_id"]).stdout
    folder = tmp_path / "out"
    restored = pitr.restore_to_file(point, folder)
    assert {Path(disk["target"]).parent for disk in restored} == {folder}
    assert len(list(folder.iterdir())) == len(restored) == len(names) + 1 == len(oracle)
    assert sorted(str(path) for path in folder.iterdir()) == sorted(disk["target"] for disk in restored)
    pitr.json("restore", "--point", point["backup_id"])


def test_a_restored_disk_is_backed_up_in_turn(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    """The host has rounded it up to 4 KiB, while the engine reports the size that was asked for."""
    vm = make_vm(lab, 10487296)
    with vm.disks[0].guest() as guest:
        scribble(guest, random.Random(1), 10487296)
    pitr.backup(vm.name)
    rescue = lab.add_vm(f"{vm.name}-rescue")
    pitr("restore", vm.name, "--at", "now", "--attach-to", rescue.name)
    rescue.start()
    for number in range(2):
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            point = pitr.backup(rescue.name)
        (disk,) = pitr.json("restore", "--point", point["backup_id"])["disks"]
        copy = tmp_path / "copy"
        lab.disk(disk["target"]).copy_content(copy)
        held = oracle[disk["disk_id"]].read_bytes()
        assert copy.read_bytes()[: len(held)] == held
        copy.unlink()


def test_an_engine_that_goes_away_in_the_middle(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be ended then: pitr says so, and the next run ends it."""
    vm = make_vm(lab, 2 * MiB)
    pitr.backup(vm.name)

    def at_once(operation: Any, **options: Any) -> Any:
        return retrying(operation, **{**options, "first_pause_s": 0.001})

    monkeypatch.setattr(engine_connection, "retrying", at_once)

    def go_away() -> None:
        lab.engine.faults.drop_connection(".*", "", times=100000)

    with oracle_of(lab, tmp_path, then=go_away):
        failed = pitr("backup", vm.name, code=6)
    assert "no answer from the engine" in failed.stderr
    lab.engine.faults.clear()
    assert lab.open_backups()
    assert pitr.json("verify")["checked"]["points"] == 1
    with oracle_of(lab, tmp_path) as oracle:
        said = pitr("backup", vm.name, "-o", "json")
    assert "an earlier run had left open" in said.stderr
    assert nothing_open(lab)
    assert_restores(pitr, lab, said.json["backups"][0], oracle, tmp_path)


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_an_imageio_that_loses_its_tickets(
    lab: Lab, pitr: Pitr, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    vm = make_vm(lab, 2 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"M" * MiB)
    pitr.backup(vm.name)
    disks = {disk.id for disk in lab.disks}
    add_ticket = lab.host.add_ticket

    def add_and_lose(ticket_id: str, **ticket: Any) -> None:
        add_ticket(ticket_id, **ticket)
        lab.host.remove_ticket(ticket_id)

    monkeypatch.setattr(lab.host, "add_ticket", add_and_lose)
    arguments = ("backup", vm.name) if command == "backup" else ("restore", "--at", "now")
    failed = pitr(*arguments, code=6)
    assert "ovirt-imageio" in failed.complaint
    monkeypatch.undo()
    assert nothing_open(lab)
    assert {disk.id for disk in lab.disks} == disks
    pitr(*arguments)


def test_block_storage_and_preallocated_disks(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    """A raw disk on block storage holds what was there before: it is zeroed where the point is zero."""
    try:
        domain = lab.add_storage_domain(f"block-{os.urandom(4).hex()}", storage_type="iscsi")
        vm = lab.add_vm(f"vm-{os.urandom(4).hex()}", storage_domain=domain.name)
        vm.add_disk("sparse", 2 * MiB)
        vm.add_disk("preallocated", 3 * MiB, format="raw", sparse=False)
        vm.start()
        for disk in vm.disks:
            with disk.guest() as guest:
                guest.write(MiB, b"N" * 4096)
        with oracle_of(lab, tmp_path) as oracle:
            point = pitr.backup(vm.name)
        restored = pitr.json("restore", "--point", point["backup_id"])["disks"]
        zeroed = {disk["disk_id"]: disk["bytes_zeroed"] for disk in restored}
        assert zeroed == {vm.disks[0].id: 0, vm.disks[1].id: 3 * MiB - 4096}
        for disk in restored:
            assert_disk_is(lab, disk["target"], oracle[disk["disk_id"]], tmp_path)
    finally:
        with lab.engine.state.lock:
            lab.engine.state.storage_domains[domain.id].active = False
