# SPDX-License-Identifier: GPL-2.0-or-later
"""The USB stick for UEFI: other programs read its file system, and it is tried after the disks."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pitr.system.process import find_program, run
from pitr.system.qemu.command import Channels, Drive, Machine, qemu_command
from pitr.system.qemu.hardware import DiskPlace, Hardware
from pitr.system.qemu.loader_stick import loader_stick
from pitr.units import MIB


def test_other_programs_read_the_script(tmp_path: Path) -> None:
    image = tmp_path / "stick"
    image.write_bytes(loader_stick())
    script = run(["mtype", "-i", str(image), "::startup.nsh"])
    assert r"if exist %d:\EFI\%f\%l.efi then" in script and " debian " in script
    assert script.count("for ") == script.count("endfor") == script.count("endif") == 3
    fsck = find_program("fsck.fat")
    assert fsck is not None
    assert subprocess.run([fsck, "-n", str(image)], capture_output=True, check=False).returncode == 0


def test_it_comes_after_the_disks() -> None:
    drives = [
        Drive(f"22222222-0000-4000-8000-{number:012}", Path(f"/d{number}"), DiskPlace()) for number in (1, 2)
    ]
    machine = Machine(Hardware(uefi=True), drives, "tcg", 1, MIB, stick=Path("/s"))
    devices = [each for each in qemu_command("qemu", machine, Channels(3)) if "bootindex=" in each]
    assert [each.split("drive=")[1].split(",")[0] for each in devices] == ["disk0", "disk1", "stick"]
    assert devices[-1].endswith("bootindex=3")
