# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that write, and the oracle: what a disk held at the moment of a backup, byte for byte."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from pitr.lab import Lab, LabDisk, LabVM
from pitr.lab.host import Guest
from pitr.system.process import run
from tests.support.pitr import Pitr

KiB = 1 << 10
MiB = 1 << 20


def nothing_open(lab: Lab) -> bool:
    return lab.open_transfers() == lab.open_backups() == lab.locked_disks() == []


def make_vm(
    lab: Lab, *sizes: int, compat: str = "4.6", formats: Sequence[str] = (), running: bool = True
) -> LabVM:
    """A VM with a name of its own and disks of these sizes: d0, d1…"""
    vm = lab.add_vm(f"vm-{random.getrandbits(40):010x}", compat=compat)
    for number, size in enumerate(sizes):
        disk_format = formats[number] if number < len(formats) else "cow"
        vm.add_disk(f"d{number}", size, format=disk_format, bootable=number == 0)
    if running:
        vm.start()
    return vm


def scribble(guest: Guest, chance: random.Random, size: int, writes: int = 24) -> None:
    """Do to a disk what guests do: small and large writes, unaligned, overlapping; zeroes of all kinds."""
    for _ in range(writes):
        length = min(size, chance.choice((512, 4 * KiB, 64 * KiB, chance.randrange(1, 200 * KiB))))
        start = chance.randrange(0, size - length + 1)
        if chance.random() < 0.5:
            start -= start % 512
        action = chance.randrange(8)
        if action < 4:
            guest.write(start, chance.randbytes(length))
        elif action == 4:
            guest.write(start, bytes(length))
        elif action == 5:
            guest.zero(start, length, unmap=False)
        elif action == 6:
            guest.zero(start, length, unmap=True)
        else:
            guest.discard(start, length)


def three_vms(lab: Lab) -> list[str]:
    """Three running VMs with a disk each that holds the VM's name: web0, web1, web2."""
    names = [f"web{number}" for number in range(3)]
    for name in names:
        vm = lab.add_vm(name)
        vm.add_disk("system", MiB, bootable=True)
        vm.start()
        with vm.disks[0].guest() as guest:
            guest.write(0, name.encode() * 1000)
    return names


@contextmanager
def oracle_of(lab: Lab, folder: Path, *, then: Callable[[], None] | None = None) -> Iterator[dict[str, Path]]:
    """Copy each disk's content at the very moment at which the host begins a backup; then call `then`.

    Guests that write meanwhile have to hold `guests` for each write. The result is filled with disk id and file.
    """
    begin_backup = lab.host.begin_backup
    copies: dict[str, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)

    def hooked(vm_id: str | None, backup_id: str, volumes: Mapping[str, str | None], *rest: Any) -> None:
        with guests:
            begin_backup(vm_id, backup_id, volumes, *rest)
            for disk_id in volumes:
                copies[disk_id] = folder / f"{disk_id}.oracle"
                copies[disk_id].unlink(missing_ok=True)
                lab.host.copy_content(disk_id, copies[disk_id])
        if then is not None:
            then()

    with mock.patch.object(lab.host, "begin_backup", hooked):
        yield copies


guests = threading.Lock()


@contextmanager
def guest_that_goes_on(disk: LabDisk, seed: int) -> Iterator[None]:
    """A guest that writes all the time, in a thread of its own."""
    stop = threading.Event()

    def work() -> None:
        chance = random.Random(seed)
        with disk.guest() as guest:
            while not stop.is_set():
                with guests:
                    scribble(guest, chance, disk.size, writes=1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def assert_same(image: Path, oracle: Path, *, image_format: str = "raw") -> None:
    """Byte for byte, and of one size."""
    info = json.loads(run(["qemu-img", "info", "--output=json", "-f", image_format, str(image)]))
    assert info["virtual-size"] == oracle.stat().st_size
    # Its exit code tells of the first byte that differs.
    run(["qemu-img", "compare", "-q", "-f", image_format, "-F", "raw", str(image), str(oracle)])


def assert_disk_is(lab: Lab, disk_id: str, oracle: Path, folder: Path) -> None:
    """A disk on the engine against the oracle; the host may have made it up to 4 KiB longer."""
    assert lab.disk(disk_id).size == oracle.stat().st_size
    copy = folder / f"{disk_id}.copy"
    lab.disk(disk_id).copy_content(copy)
    assert 0 <= copy.stat().st_size - oracle.stat().st_size < 4 * KiB
    run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", str(copy), str(oracle)])
    copy.unlink()


def assert_restores(
    pitr: Pitr, lab: Lab, point: Any, oracle: Mapping[str, Path], folder: Path, *, ways: str = "raw"
) -> None:
    """Restore a point in each of the `ways` ("raw", "qcow2", "disks"); all its disks are as in the oracle."""
    assert {disk["disk_id"] for disk in point["disks"]} == set(oracle)
    for way in ways.split():
        if way == "disks":
            before = {disk.id for disk in lab.disks}
            document = pitr.json("restore", "--point", point["backup_id"])
            assert {disk["target"] for disk in document["disks"]} == {d.id for d in lab.disks} - before
            restored = document["disks"]
            for disk in restored:
                assert_disk_is(lab, disk["target"], oracle[disk["disk_id"]], folder)
        else:
            target = folder / f"{point['backup_id']}-{way}"
            restored = pitr.restore_to_file(point, f"{target}/", "--format", way)  # type: ignore[arg-type]
            for disk in restored:
                assert_same(Path(disk["target"]), oracle[disk["disk_id"]], image_format=way)
                Path(disk["target"]).unlink()
        assert len(restored) == len(oracle)
        for disk in restored:
            assert_adds_up(disk)


def assert_adds_up(restored: Any) -> None:
    parts = restored["bytes_written"] + restored["bytes_zeroed"] + restored["bytes_skipped"]
    assert parts == restored["size"]
