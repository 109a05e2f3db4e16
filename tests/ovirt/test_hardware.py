# SPDX-License-Identifier: GPL-2.0-or-later
"""The hardware of a VM, from its saved configuration."""

from __future__ import annotations

import pytest

from pitr.errors import FormatError
from pitr.ovirt.hardware import hardware
from pitr.system.qemu.hardware import Bus, Chipset, DiskPlace, Hardware
from pitr.units import GIB
from tests.support.tiny_guests import ovf

_DISKS = [f"22222222-0000-4000-8000-{number:012}" for number in range(5)]


def test_disks_keep_their_buses_and_the_one_to_boot_from() -> None:
    buses = ("VirtIO", "VirtIO_SCSI", "SATA", "IDE", "Quantum")
    document = ovf(
        *(f"{disk} {bus}{' boot' if bus == 'SATA' else ''}" for disk, bus in zip(_DISKS, buses, strict=True))
    )
    expected = (Bus.VIRTIO, Bus.VIRTIO_SCSI, Bus.SATA, Bus.IDE, Bus.VIRTIO_SCSI)
    assert hardware(document).disks == {
        disk: DiskPlace(bus, bus is Bus.SATA) for disk, bus in zip(_DISKS, expected, strict=True)
    }


@pytest.mark.parametrize(
    ("bios", "chipset", "uefi"),
    [
        ("1", Chipset.I440FX, False),
        ("2", Chipset.Q35, False),
        ("3", Chipset.Q35, True),
        ("4", Chipset.Q35, True),
        ("0", Chipset.I440FX, False),
        ("q35,kernel=x", Chipset.I440FX, False),
    ],
)
def test_the_firmware(bios: str, chipset: Chipset, uefi: bool) -> None:
    found = hardware(ovf(bios=bios))
    assert (found.chipset, found.uefi) == (chipset, uefi)


def _item(kind: int, **values: object) -> str:
    rest = "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in values.items())
    return f"<Item><rasd:ResourceType>{kind}</rasd:ResourceType>{rest}</Item>"


def test_processors_memory_and_the_clock_of_windows() -> None:
    vm = "33333333-0000-4000-8000-000000000001"
    system = (
        f'<Section xsi:type="ovf:OperatingSystemSection_Type" ovf:id="{vm}">'
        "<Description>windows_2022</Description></Section>"
    )
    items = _item(3, num_of_sockets=2, cpu_per_socket=3, threads_per_cpu=1) + _item(4, VirtualQuantity=8192)
    found = hardware(ovf(more=f"{system}<Section>{items}</Section>"))
    assert (found.cpus, found.memory_bytes, found.local_time, found.uuid) == (6, 8 * GIB, True, vm)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "2,hostmem=x", "9" * 30, "٣"])
def test_nonsense_is_ignored(text: str) -> None:
    items = _item(3, num_of_sockets=text) + _item(4, VirtualQuantity=text)
    system = '<Section ovf:id="x,file=/etc/passwd" xsi:type="ovf:OperatingSystemSection_Type"/>'
    disks = '<Disk ovf:fileRef="x,readonly=off/y" ovf:disk-interface="virtio,file=x"/>'
    found = hardware(ovf(more=f"{system}<Section>{items}{disks}</Section>"))
    assert found == Hardware()


def test_no_configuration() -> None:
    for document in ("", "no XML", "<Envelope/>"):
        with pytest.raises(FormatError):
            hardware(document)
