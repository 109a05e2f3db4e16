# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the command line of qemu for a guest, without a network.

Everything in it is a constant, a number, a member of an enumeration, or a path or id that pitr chose. Paths go through
JSON, in which a comma has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pitr.system.qemu.firmware import Firmware
from pitr.system.qemu.hardware import Bus, Chipset, DiskPlace, Hardware
from pitr.units import MIB

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_IDE_PLACES: Final = 4
_SATA_PORTS: Final = 6
#: How the guest's processor is made; "max" without five-level page tables, which only slow an emulation down.
_PROCESSORS: Final = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max,la57=off"),
}
#: A hostile guest that breaks out of qemu starts no program and gets no more rights.
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the guest: a qcow2 file. The guest sees `disk_id` as the serial number if it is a UUID."""

    disk_id: str
    path: Path
    place: DiskPlace


@dataclass(frozen=True, slots=True)
class Channels:
    """Sockets between pitr and qemu, by file descriptor; None for a channel that is not connected."""

    qmp: int
    serial: int | None = None
    agent: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest to start. `display` is the value of -display, `vnc` that of -vnc.

    For UEFI, `variables` is a copy for this guest, and `stick` the image of a USB stick that it tries last.

    `disposable` means that nobody keeps the drives, so that qemu need not flush them. With `stays`, a guest that shuts
    down stops with its last picture on the screen, else qemu exits.
    """

    hardware: Hardware
    drives: Sequence[Drive]
    accelerator: str
    cpus: int
    memory_bytes: int
    display: str = "none"
    vnc: str | None = None
    firmware: Firmware | None = None
    variables: Path | None = None
    stick: Path | None = None
    disposable: bool = True
    stays: bool = True


def qemu_command(program: str, machine: Machine, channels: Channels) -> list[str]:
    """Return the command that starts this machine."""
    hardware = machine.hardware
    command = [program, "-no-user-config", "-nodefaults", "-nic", "none", "-sandbox", _SANDBOX]
    command += _PROCESSORS[machine.accelerator]
    command += ["-smp", str(machine.cpus), "-m", f"{machine.memory_bytes // MIB}M", *_board(machine)]
    command += ["-rtc", "base=localtime" if hardware.local_time else "base=utc"]
    if hardware.uuid is not None and _UUID.fullmatch(hardware.uuid):
        command += ["-uuid", hardware.uuid]
    command += ["-boot", "strict=on,menu=off", *(["-no-shutdown"] if machine.stays else [])]
    command += ["-device", "VGA", "-display", machine.display]
    if machine.vnc is not None:
        command += ["-vnc", machine.vnc]
    command += ["-usb", "-device", "usb-tablet"]
    command += [
        "-object",
        "rng-random,id=random,filename=/dev/urandom",
        "-device",
        "virtio-rng-pci,rng=random",
    ]
    command += _channels(channels)
    command += _drives(machine)
    return command


def _board(machine: Machine) -> Iterator[str]:
    options = machine.hardware.chipset.value
    firmware, variables = machine.firmware, machine.variables
    if firmware is not None and variables is not None:
        if firmware.needs_smm:
            options += ",smm=on"
            yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")
        yield from _block_device("code", firmware.code_format, firmware.code, read_only=True)
        yield from _block_device("variables", firmware.variables_format, variables)
        options += ",pflash0=code,pflash1=variables"
    yield from ("-machine", options)


def _block_device(
    name: str, driver: str, path: Path, *, read_only: bool = False, more: Mapping[str, Any] | None = None
) -> list[str]:
    node = {
        "node-name": name,
        "driver": driver,
        "read-only": read_only,
        "file": {"driver": "file", "filename": str(path.absolute()), "read-only": read_only},
        **(more or {}),
    }
    return ["-blockdev", orjson.dumps(node).decode()]


def _channels(channels: Channels) -> Iterator[str]:
    yield from ("-chardev", f"socket,id=qmp,fd={channels.qmp}", "-mon", "chardev=qmp,mode=control")
    yield from ("-chardev", _back_end("serial", channels.serial), "-serial", "chardev:serial")
    yield from ("-device", "virtio-serial-pci")
    if channels.agent is not None:
        yield from ("-chardev", _back_end("agent", channels.agent))
        yield from ("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")


def _back_end(name: str, descriptor: int | None) -> str:
    return f"null,id={name}" if descriptor is None else f"socket,id={name},fd={descriptor}"


# Disks


def boot_order(drives: Sequence[Drive]) -> Sequence[Drive]:
    """Return the drives that the firmware tries, in this order: the bootable ones, or all if none is."""
    return [drive for drive in drives if drive.place.bootable] or drives


def _drives(machine: Machine) -> Iterator[str]:
    places = _Places(machine.hardware.chipset)
    order = {drive.disk_id: number for number, drive in enumerate(boot_order(machine.drives), 1)}
    for number, drive in enumerate(machine.drives):
        name = f"disk{number}"
        more = {"cache": {"no-flush": machine.disposable}, "discard": "unmap"}
        yield from _block_device(name, "qcow2", drive.path, more=more)
        controller, device = places.next_of(drive.place.bus)
        yield from controller
        device += f",drive={name}"
        if _UUID.fullmatch(drive.disk_id):
            device += f",serial={drive.disk_id}"
        if drive.disk_id in order:
            device += f",bootindex={order[drive.disk_id]}"
        yield from ("-device", device)
    if machine.stick is not None:
        yield from _block_device("stick", "raw", machine.stick, read_only=True)
        yield from ("-device", f"usb-storage,drive=stick,removable=on,bootindex={len(order) + 1}")


class _Places:
    """Gives each disk the next place of its bus, with a controller where one is needed."""

    def __init__(self, chipset: Chipset) -> None:
        self._has_ide = chipset is Chipset.I440FX
        self._taken = dict.fromkeys(Bus, 0)

    def next_of(self, bus: Bus) -> tuple[Sequence[str], str]:
        """Return the options of a new controller, and the device's first words."""
        if bus is Bus.IDE and (not self._has_ide or self._taken[bus] == _IDE_PLACES):
            # This chipset has no IDE controller; guests with a driver for one know SATA, too.
            bus = Bus.SATA
        number = self._taken[bus]
        self._taken[bus] += 1
        match bus:
            case Bus.VIRTIO:
                return (), "virtio-blk-pci"
            case Bus.VIRTIO_SCSI:
                controller = ("-device", "virtio-scsi-pci,id=scsi0") if number == 0 else ()
                return controller, f"scsi-hd,bus=scsi0.0,scsi-id={number}"
            case Bus.SATA:
                at, port = divmod(number, _SATA_PORTS)
                controller = ("-device", f"ich9-ahci,id=sata{at}") if port == 0 else ()
                return controller, f"ide-hd,bus=sata{at}.{port}"
            case Bus.IDE:
                return (), f"ide-hd,bus=ide.{number // 2},unit={number % 2}"
