# SPDX-License-Identifier: GPL-2.0-or-later
"""The last point compared with what the disks hold now, by checksums that the daemon computes."""

from __future__ import annotations

from unittest import mock

from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.points.overlay import OverlaySource
from pitr.extents import ExtentMap
from pitr.lab import Lab
from pitr.ovirt.imageio.checksum import checksum
from tests.support.lab import KiB, MiB, make_vm, nothing_open
from tests.support.pitr import Pitr

SIZE = 10487296


def test_disks_that_went_on_changing_are_proven(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, SIZE, MiB, MiB, formats=("cow", "cow", "raw"))
    with vm.disks[0].guest() as guest:
        guest.write(100, b"A" * 5 * MiB)
    pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(3 * MiB, b"B" * 100)
        guest.zero(0, MiB, unmap=True)
        guest.write(SIZE - 512, b"C" * 512)
    before = vm.checkpoints
    result = pitr("verify", vm.name, "--against-engine", "-o", "json")
    assert result.json["ok"] and result.json["level"] == "engine"
    assert result.json["checked"]["streams"] == 2 and "d2" in result.stderr
    assert nothing_open(lab) and vm.checkpoints == before
    assert len(pitr.json("list")["points"]) == 1
    assert pitr.backup(vm.name, "--incremental", "--no-fallback")["kind"] == "incremental"


def test_a_change_that_the_engine_missed_and_a_chain_that_is_gone(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, 2 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * MiB)
    pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(64 * KiB, b"B")
    # Nothing is dirty: the write was lost to the bitmap.
    nothing = (2 * MiB, ExtentMap.of([]))
    parse = "pitr.ovirt.imageio.disk.parse_extents"
    with mock.patch(parse, lambda body, context: nothing if context == "dirty" else real(body, context)):
        document = pitr.json("verify", "--against-engine", code=3)
    (damage,) = document["damage"]
    assert (damage["kind"], damage["disk_id"]) == ("inconsistent", vm.disks[0].id)
    assert damage["points_lost"] == [pitr.json("list")["points"][0]["backup_id"]]
    # Only the same comparison clears it: the stored data matches its digests.
    pitr("verify", code=3)
    assert pitr.json("list")["points"][0]["damaged"] is True
    with mock.patch(parse, lambda body, context: nothing if context == "dirty" else real(body, context)):
        pitr("verify", "--against-engine", code=3)
    assert pitr.json("verify", "--against-engine")["ok"] is True
    assert pitr.json("list")["points"][0]["damaged"] is False
    lab.engine.lose_checkpoints(vm.id)
    assert "checkpoint" in pitr("verify", "--against-engine", code=6).complaint
    pitr("verify", "--against-engine", "--quick", code=2)
    pitr("verify", "--against-engine", "--at", "now", code=2)
    assert nothing_open(lab)


def real(body: bytes, context: str) -> tuple[int, ExtentMap]:
    from pitr.ovirt.imageio.extents import parse_extents

    return parse_extents(body, context)  # type: ignore[arg-type]


def test_an_overlay_is_the_lower_disk_with_the_upper_ones_extents() -> None:
    lower = bytes(range(256)) * 1024
    upper = b"u" * 300 * KiB
    extents = ExtentMap.of([(0, 512, True), (1000, 5000, False), (200 * KiB, 100 * KiB, False)])
    expected = bytearray(lower + bytes(44 * KiB))
    expected[:512] = bytes(512)
    expected[1000:6000] = b"u" * 5000
    expected[200 * KiB :] = b"u" * 100 * KiB
    overlay = OverlaySource(MemorySource(upper, extents), MemorySource(lower))
    assert checksum(overlay) == checksum(MemorySource(expected))
