# SPDX-License-Identifier: GPL-2.0-or-later
"""Start a point as a virtual machine: qemu over qcow2 overlays over disks that pitr serves.

The guest writes to the overlays only. It has no network. Its hardware is that of the saved configuration.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.errors import FormatError, PitrError, UsageError
from pitr.jobs.serve import overlays
from pitr.jobs.serve.over_nbd import Served, serving
from pitr.model import Backup, Stream
from pitr.ovirt.hardware import bus_of, hardware
from pitr.repository import Repository, configurations
from pitr.repository.damage import StoredDamage
from pitr.system import machine, sockets
from pitr.system.process import require
from pitr.system.qemu.command import Drive, Machine, boot_order
from pitr.system.qemu.firmware import Firmware, find_uefi
from pitr.system.qemu.hardware import Bus, DiskPlace, Hardware
from pitr.system.qemu.loader_stick import loader_stick
from pitr.system.qemu.program import accelerator, find_qemu
from pitr.system.qemu.running import RunningGuest, running
from pitr.text import printable
from pitr.units import GIB, MIB, human_size

_DEFAULT_MEMORY: Final = 2 * GIB
_LEAST_MEMORY: Final = 16 * MIB
_MOST_CPUS: Final = 4


@dataclass(frozen=True, slots=True)
class Screen:
    """Where the guest's screen is shown: the values of qemu's options -display and -vnc."""

    display: str = "none"
    vnc: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to start the guest.

    `memory_bytes` None means as in the configuration, at most 2 GiB. `keep` has the overlays to keep, by disk id:
    new ones, or all of those that an earlier guest at this point wrote to. Without it they are in a temporary folder in
    `scratch` (None: the system's), and removed. `observed` connects the serial port and the agent's channel, and
    keeps a guest that shuts down for a look at its screen. `folder` keeps decompressed data on a disk.
    """

    memory_bytes: int | None = None
    screen: Screen = Screen()
    keep: Mapping[str, Path] | None = None
    scratch: Path | None = None
    observed: bool = False
    cache_bytes: int = 256 * MIB
    folder: FrameFolder | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A guest that runs, over these served disks. `notes` says what differs from the original VM."""

    guest: RunningGuest
    served: Sequence[Served]
    accelerator: str
    boot_disk_id: str
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Program:
    """qemu and the firmware for a guest."""

    path: str
    accelerator: str
    firmware: Firmware | None


def check_memory(size: int) -> int:
    """Return the size of a guest's memory if this host can give it. Raises UsageError."""
    if size < _LEAST_MEMORY:
        raise UsageError(
            f"--memory must be at least {human_size(_LEAST_MEMORY)}, not {human_size(size)}",
            "Write the size with its unit: 2G, 512M.",
        )
    if size > machine.memory_bytes():
        raise UsageError(
            f"--memory is {human_size(size)}, but pitr can use only {human_size(machine.memory_bytes())} of memory",
            "Give a smaller size; many guests boot with 1G.",
        )
    return size


@contextmanager
def started(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    wanted: Wanted,
    *,
    on_unreadable: Callable[[PitrError], None] | None = None,
) -> Iterator[Started]:
    """Boot these disks of a point, and stop the guest at the end of the block.

    `on_unreadable` gets the damage that the guest runs into. Raises ProgramMissing, ProgramFailed, UsageError,
    StoredDamage, BusyError.
    """
    require("qemu-img")
    built, notes = _hardware(repository, backup, streams)
    program = _program(built)
    streams = [stream for stream in streams if stream.settings.active is not False]
    if not streams:
        raise UsageError("the point has no active disk to boot from", "Restore it to look at its disks.")
    with ExitStack() as stack:
        private = Path(stack.enter_context(TemporaryDirectory(prefix="pitr-")))
        paths = wanted.keep or _scratch(stack, wanted.scratch, streams)
        where = overlays.socket_beside(paths) if wanted.keep else private / "nbd"
        listener = stack.enter_context(sockets.unix_listener(where))
        served = stack.enter_context(
            serving(
                repository,
                backup,
                streams,
                listener,
                cache_bytes=wanted.cache_bytes,
                folder=wanted.folder,
                on_unreadable=on_unreadable,
            )
        )
        _make_or_check(paths, served)
        virtual = _machine(built, program, wanted, paths, private)
        guest = stack.enter_context(running(program.path, virtual, private, observed=wanted.observed))
        yield Started(guest, served, program.accelerator, boot_order(virtual.drives)[0].disk_id, notes)


def _make_or_check(paths: Mapping[str, Path], served: Sequence[Served]) -> None:
    """Create the overlays, or check that those that exist belong to these disks at this point. Raises UsageError."""
    if not any(path.exists() for path in paths.values()):
        overlays.make_overlays(paths, served)
        return
    for disk in served:
        path = paths[disk.disk_id]
        if overlays.backing_of(path) != disk.point_uri:
            raise UsageError(
                f"{path} is no overlay of disk {printable(disk.name)} at this point, or its socket was another one",
                "Name the point and the path as you did when pitr created it, or name another file.",
            )


def _scratch(stack: ExitStack, folder: Path | None, streams: Sequence[Stream]) -> dict[str, Path]:
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="pitr-boot-", dir=folder)))
    return {stream.disk_id: scratch / f"disk{number}.qcow2" for number, stream in enumerate(streams)}


def _program(built: Hardware) -> _Program:
    path = find_qemu()
    return _Program(path, accelerator(path), find_uefi() if built.uefi else None)


def _machine(
    built: Hardware, program: _Program, wanted: Wanted, paths: Mapping[str, Path], private: Path
) -> Machine:
    memory = wanted.memory_bytes
    if memory is None:
        memory = min(built.memory_bytes or _DEFAULT_MEMORY, _DEFAULT_MEMORY, machine.memory_bytes())
    variables = stick = None
    if program.firmware is not None:
        variables, stick = private / "variables", private / "stick"
        shutil.copyfile(program.firmware.variables, variables)
        stick.write_bytes(loader_stick())
    return Machine(
        hardware=built,
        drives=[Drive(disk_id, path, built.disks[disk_id]) for disk_id, path in paths.items()],
        accelerator=program.accelerator,
        cpus=max(1, min(built.cpus or 1, len(os.sched_getaffinity(0)), _MOST_CPUS)),
        memory_bytes=max(memory, _LEAST_MEMORY),
        display=wanted.screen.display,
        vnc=wanted.screen.vnc,
        firmware=program.firmware,
        variables=variables,
        stick=stick,
        disposable=wanted.keep is None,
        stays=wanted.observed,
    )


def _hardware(
    repository: Repository, backup: Backup, streams: Sequence[Stream]
) -> tuple[Hardware, list[str]]:
    """Return the hardware in the point's configuration, with a place for each disk, and notes for people."""
    notes: list[str] = []
    built = Hardware(uuid=None)
    try:
        document = configurations.read(repository.store, backup)
        if document is not None:
            built = hardware(document)
        else:
            notes.append("the point has no VM configuration: pitr boots it with BIOS")
    except (FormatError, StoredDamage) as error:
        notes.append(f"pitr boots it with BIOS: {printable(error.message)}")
    disks = {stream.disk_id: built.disks.get(stream.disk_id) or _place(stream) for stream in streams}
    return replace(built, disks=disks), notes


def _place(stream: Stream) -> DiskPlace:
    settings = stream.settings
    return DiskPlace(bus_of(settings.interface) or Bus.VIRTIO_SCSI, bool(settings.bootable))
