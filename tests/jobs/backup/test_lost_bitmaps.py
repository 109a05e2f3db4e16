# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps lost without the engine's knowledge: a comparison in the same run, with a reason; then tracked again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import LabError
from pitr.lab import Lab, LabVM
from pitr.lab.engine import events
from pitr.ovirt.imageio import session
from tests.support.lab import MiB, assert_restores, make_vm, nothing_open, oracle_of
from tests.support.pitr import Pitr, wait_until


def changed_vm(lab: Lab, pitr: Pitr, *, compat: str = "4.7", running: bool = True) -> LabVM:
    """A VM with two disks and a point, changed since."""
    vm = make_vm(lab, 4 * MiB, MiB, compat=compat)
    _write(vm, b"A")
    pitr.backup(vm.name)
    _write(vm, b"B")
    if not running:
        vm.stop()
    return vm


def _write(vm: LabVM, byte: bytes) -> None:
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(random.Random(disk.name).randrange(4) * 4096, byte * 70000)


def assert_compared_then_tracked(
    lab: Lab, pitr: Pitr, vm: LabVM, folder: Path, changes: list[str] | None = None
) -> Any:
    """Run one backup that must fall back, check its point and the next one. Return the point."""
    with oracle_of(lab, folder) as oracle:
        result = pitr("backup", vm.name, "--incremental", "--output", "json")
    (point,) = result.json["backups"]
    expected = changes or ["compared", "compared"]
    assert [disk["changes"] for disk in point["disks"]] == expected, result.stderr
    assert nothing_open(lab)
    assert_restores(pitr, lab, point, oracle, folder)
    with oracle_of(lab, folder / "next") as oracle:
        following = pitr.backup(vm.name, "--no-fallback")
    assert {disk["changes"] for disk in following["disks"]} == {"tracked"}
    assert_restores(pitr, lab, following, oracle, folder / "next")
    assert len(vm.checkpoints) == 1
    return point


@pytest.mark.parametrize(("compat", "running"), [("4.7", True), ("4.7", False), ("4.6", False)])
def test_a_download_that_the_engine_cancels_makes_a_comparison_and_quotes_the_event(
    lab: Lab, pitr: Pitr, tmp_path: Path, compat: str, running: bool
) -> None:
    """The engine lists the checkpoint and reaches READY; only the transfer fails (ovirt-engine#896)."""
    vm = changed_vm(lab, pitr, compat=compat)
    vm.crash()
    if running:
        vm.start()
    point = assert_compared_then_tracked(lab, pitr, vm, tmp_path)
    assert "did not start" in point["reason"] and "bitmap" in point["reason"]
    assert point["reason"].startswith("disk d"), "names come first"
    assert "Image Download with disk d" in point["reason"] and point["from_checkpoint_id"] is None
    assert {disk["reason"] for disk in point["disks"]} == {point["reason"]}


def test_no_fallback_fails_and_leaves_nothing(lab: Lab, pitr: Pitr) -> None:
    vm = changed_vm(lab, pitr)
    points = pitr.json("list")
    vm.crash()
    vm.start()
    result = pitr("backup", vm.name, "--incremental", "--no-fallback", "--output", "json", code=6)
    assert "bitmap" in result.error["message"] and "--no-fallback" in result.error["advice"]
    assert nothing_open(lab) and pitr.json("list") == points


def test_the_event_about_the_backup_is_quoted_before_events_about_disks(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = changed_vm(lab, pitr)
    lab.engine.faults.fail("transfer start")
    text = "VM web's checkpoint needs a full backup: the bitmap is inconsistent."
    found = events.found

    def with_event(installation: Any, search: str) -> Any:
        if any(search == backup for backup in lab.engine.state.backups):
            events.record(installation, events.FULL_BACKUP_NEEDED, text, subject_id=search)
        return found(installation, search)

    monkeypatch.setattr(events, "found", with_event)
    point = assert_compared_then_tracked(lab, pitr, vm, tmp_path)
    assert text.rstrip(".") in point["reason"] and "Image Download" not in point["reason"]


def test_an_engine_without_events_is_no_failure(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = changed_vm(lab, pitr)
    lab.engine.faults.next("GET", "/events", status=501, times=10)
    lab.engine.faults.fail("transfer start")
    assert_compared_then_tracked(lab, pitr, vm, tmp_path)


@pytest.mark.parametrize("compat", ["4.6", "4.7"])
def test_changes_that_imageio_cannot_list_compare_only_this_disk(
    lab: Lab, pitr: Pitr, tmp_path: Path, compat: str
) -> None:
    """The engine says incremental, the export has no bitmap."""
    vm = changed_vm(lab, pitr, compat=compat)
    lab.engine.faults.fail("bitmap")
    point = assert_compared_then_tracked(lab, pitr, vm, tmp_path, ["compared", "tracked"])
    assert point["disks"][0]["reason"].startswith("disk d0: ")


def test_an_export_that_is_gone_makes_a_comparison(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticket names a socket that does not exist: imageio answers 500 to each request."""
    vm = changed_vm(lab, pitr)
    add_ticket = lab.host.add_ticket
    done: list[str] = []

    def add(ticket_id: str, **ticket: Any) -> None:
        if ticket["dirty"] and not done:
            done.append(ticket_id)
            ticket["nbd_url"] = "nbd:unix:/nonexistent/export:exportname=gone"
        add_ticket(ticket_id, **ticket)

    monkeypatch.setattr(lab.host, "add_ticket", add)
    point = assert_compared_then_tracked(lab, pitr, vm, tmp_path)
    assert done and point["reason"].startswith("disk d")


@pytest.mark.parametrize("stop", ["engine", "ticket"])
def test_a_transfer_that_ends_while_changes_are_read(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """If the engine stopped it, a comparison helps. An expired ticket is another failure, which must not cost one."""
    vm = changed_vm(lab, pitr)
    points = pitr.json("list")
    read = session.ImageioSession.read
    done: list[str] = []
    ticket_of = lab.host.ticket

    def ticket(ticket_id: str) -> Any:
        with lab.engine.state.lock:
            if done and stop == "ticket" and any(not t.asked for t in lab.engine.state.active_transfers()):
                # The engine must not notice it before pitr.
                raise LabError("the daemon does not answer")
        return ticket_of(ticket_id)

    monkeypatch.setattr(lab.host, "ticket", ticket)

    def ended(self: Any, *arguments: Any) -> Any:
        if not done:
            (transfer,) = [
                transfer
                for transfer in lab.engine.state.active_transfers()
                if str(transfer.ticket_id) in self._connected.path
            ]
            done.append(transfer.id)
            if stop == "engine":
                lab.engine.stop_transfers(transfer.disk_id)
                wait_until(lambda: transfer.ended, "the end of the transfer")
            else:
                wait_until(lambda: lab.host.remove_ticket(transfer.ticket_id or ""), "the end of the ticket")
        return read(self, *arguments)

    monkeypatch.setattr(session.ImageioSession, "read", ended)
    if stop == "engine":
        point = assert_compared_then_tracked(lab, pitr, vm, tmp_path)
        assert "cancelled" in point["reason"] or "failure" in point["reason"]
        assert "Image Download with disk" in point["reason"]
    else:
        assert "ovirt-imageio" in pitr("backup", vm.name, code=6).complaint
        assert nothing_open(lab) and pitr.json("list") == points
    assert done
