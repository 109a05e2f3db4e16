# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a drill that boots a Debian, over booting its raw image with qemu and the same machine.

Both end when the guest's marker is on the serial console. The drill is the whole command, with its start and the
stored result.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path

import chains
import measure
from measure import Result, Size

from pitr.repository import Repository
from pitr.system.process import run
from pitr.system.qemu.command import Drive, Machine
from pitr.system.qemu.hardware import DiskPlace, Hardware
from pitr.system.qemu.program import accelerator, find_qemu
from pitr.system.qemu.running import running
from pitr.units import MIB
from tests.support import debian_guest

GOAL = 1.3
_MEMORY = 2048 * MIB
_PATIENCE_S = 300.0


def benchmark(size: Size) -> list[Result]:
    missing = debian_guest.missing()
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; 'make guest' unpacks some of them")
    with measure.folder() as folder:
        image = debian_guest.build(folder)
        with Repository.create(folder / "r") as repository:
            chains.make_chain(repository, image, 0)
        samples = measure.in_turn(
            size.runs,
            {
                "pitr drill --boot": lambda: measure.seconds(lambda: _drill(folder / "r")),
                "qemu, raw image": lambda: measure.seconds(lambda: _raw(image)),
            },
        )
    return [
        measure.compared(
            f"drill of a Debian, {accelerator(find_qemu())}",
            samples,
            "pitr drill --boot",
            "qemu, raw image",
            goal=GOAL,
        )
    ]


def _drill(repository: Path) -> None:
    command = [sys.executable, "-m", "pitr", "--repo", str(repository), "drill", "--boot", "--expect"]
    subprocess.run([*command, debian_guest.MARKER], check=True, capture_output=True)


def _raw(image: Path) -> None:
    """Boot the image over an overlay on the file itself, and wait for the marker."""
    with measure.folder() as folder:
        overlay = folder / "o.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(overlay)])
        drives = [Drive("", overlay, DiskPlace(bootable=True))]
        machine = Machine(Hardware(), drives, accelerator(find_qemu()), 1, _MEMORY)
        with running(find_qemu(), machine, folder, observed=True) as guest:
            heard = b""
            deadline = time.monotonic() + _PATIENCE_S
            while debian_guest.MARKER.encode() not in heard:
                select.select([guest.serial], [], [], deadline - time.monotonic())
                heard += guest.serial.recv(1 << 16)  # type: ignore[union-attr]


if __name__ == "__main__":
    measure.main(benchmark)
