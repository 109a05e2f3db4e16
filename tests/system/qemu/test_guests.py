# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of one sector in a real qemu: each bus boots, and nothing outlives the block."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.errors import FormatError, ProgramFailed
from pitr.system.process import run
from pitr.system.qemu import picture
from pitr.system.qemu.command import Channels, Drive, Machine, qemu_command
from pitr.system.qemu.hardware import Bus, Chipset, DiskPlace, Hardware
from pitr.system.qemu.program import find_qemu
from pitr.system.qemu.running import RunningGuest, running
from pitr.system.qemu.screen_text import text_on
from pitr.units import MIB
from tests.support import debian_guest, tiny_guests
from tests.support.pitr import PATIENCE_S

_DISK_ID = "22222222-0000-4000-8000-000000000001"
_PLACE = DiskPlace()
_with_qemu = pytest.mark.skipif(
    bool(debian_guest.missing_qemu()), reason=f"not installed: {', '.join(debian_guest.missing_qemu())}"
)


def _machine(folder: Path, content: bytes, place: DiskPlace = _PLACE, **hardware: Chipset) -> Machine:
    raw, disk = folder / "disk.raw", folder / "disk, with=commas.qcow2"
    raw.write_bytes(content.ljust(MIB, b"\0"))
    run(["qemu-img", "convert", "-q", "-O", "qcow2", str(raw), str(disk)])
    drives = [Drive(_DISK_ID, disk, place)]
    return Machine(Hardware(**hardware), drives, "tcg", 1, 64 * MIB)  # type: ignore[arg-type]


@contextmanager
def _started(folder: Path, machine: Machine) -> Iterator[RunningGuest]:
    with running(find_qemu(), machine, folder, observed=True) as guest:
        yield guest


def _says(guest: RunningGuest, text: bytes) -> bool:
    """Wait until the serial port has said the text."""
    assert guest.serial is not None
    heard = b""
    while text not in heard:
        assert select.select([guest.serial], [], [], PATIENCE_S)[0], heard
        heard += guest.serial.recv(1 << 16)
    return True


@_with_qemu
@pytest.mark.parametrize(
    ("bus", "chipset"),
    [
        (Bus.VIRTIO, Chipset.Q35),
        (Bus.SATA, Chipset.I440FX),
        (Bus.IDE, Chipset.I440FX),
        (Bus.IDE, Chipset.Q35),
    ],
)
def test_each_bus_boots(tmp_path: Path, bus: Bus, chipset: Chipset) -> None:
    machine = _machine(tmp_path, tiny_guests.saying("I am up"), DiskPlace(bus, True), chipset=chipset)
    with _started(tmp_path, machine) as guest:
        assert _says(guest, b"I am up")
        process = guest.process
    assert process.returncode is not None


@_with_qemu
def test_the_text_on_the_screen_is_read(tmp_path: Path) -> None:
    every = "".join(chr(code) for code in range(33, 127))
    with _started(
        tmp_path, _machine(tmp_path, tiny_guests.showing(every[:60] + "\r\n" + every[60:]))
    ) as guest:
        text = ""
        while every[60:] not in text:
            seen = picture.from_ppm(guest.screen())
            text = text_on(seen)
        assert every[:60] in text
    png = seen.png()
    assert png.startswith(b"\x89PNG") and len(seen.png(limit=1000)) <= 1000


def test_the_font_of_the_linux_console_is_read() -> None:
    # "f0m" in a framebuffer console; these differ from the characters of a BIOS.
    glyphs = [
        "00001c36323078303030307800000000",
        "0000386cc6c6d6d6c6c66c3800000000",
        "0000000000ecfed6d6d6d6c600000000",
    ]
    rows = zip(*(bytes.fromhex(glyph) for glyph in glyphs), strict=True)
    bits = "".join(f"{byte:08b}" for row in rows for byte in row)
    pixels = b"".join(b"\xaa\xaa\xaa" if bit == "1" else b"\0\0\0" for bit in bits)
    assert text_on(picture.from_ppm(b"P6 24 16 255 " + pixels)) == "f0m"


@_with_qemu
def test_a_guest_that_cannot_start_says_why(tmp_path: Path) -> None:
    machine = _machine(tmp_path, b"")
    machine.drives[0].path.write_bytes(b"no qcow2")
    with pytest.raises(ProgramFailed, match="not in qcow2 format"), _started(tmp_path, machine):
        pass


def test_many_disks_have_a_place_each_and_the_first_bootable_one_boots() -> None:
    drives = [
        Drive(f"22222222-0000-4000-8000-{number:012}", Path(f"/d{number}"), DiskPlace(bus, number == 2))
        for number, bus in enumerate([Bus.IDE] * 5 + [Bus.SATA] * 7 + [Bus.VIRTIO_SCSI] * 2)
    ]
    command = qemu_command("qemu", Machine(Hardware(), drives, "kvm", 2, MIB), Channels(3))
    devices = [each for each in command if ",drive=" in each]
    assert len({each.split(",drive=")[0] for each in devices}) == len(drives)
    assert [each.partition(",drive=")[2] for each in devices if "bootindex" in each] == [
        f"disk2,serial={drives[2].disk_id},bootindex=1"
    ]


def test_hostile_values_reach_no_option() -> None:
    hostile = "x,readonly=off"
    drives = [Drive(hostile, Path('/disks/a,b"}'), DiskPlace())]
    machine = Machine(Hardware(uuid=hostile), drives, "tcg", 1, MIB)
    command = qemu_command("qemu", machine, Channels(3))
    assert not [each for each in command if hostile in each]
    assert "-uuid" not in command
    assert command[command.index("-nic") :][:2] == ["-nic", "none"]


@pytest.mark.parametrize(
    "data", [b"", b"P5 1 1 255 x", b"P6 0 1 255 ", b"P6 2 2 255 xxx", b"P6 99999 1 255 "]
)
def test_no_picture(data: bytes) -> None:
    with pytest.raises(FormatError):
        picture.from_ppm(data)


def test_a_cursor_that_blinks_is_no_change() -> None:
    def seen(*lit: tuple[int, int]) -> picture.Picture:
        pixels = bytearray(200 * 100 * 3)
        for column, row in lit:
            pixels[(row * 200 + column) * 3] = 255
        return picture.from_ppm(b"P6 200 100 255 " + pixels)

    assert seen().is_like(seen((50, 50), (58, 51)))
    assert not seen().is_like(seen((50, 50), (150, 50)))
