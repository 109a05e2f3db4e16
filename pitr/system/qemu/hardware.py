# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual hardware that pitr gives to a guest: values that qemu knows, whatever a saved configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Bus(StrEnum):
    """How a disk is connected."""

    VIRTIO = "virtio"
    VIRTIO_SCSI = "virtio_scsi"
    SATA = "sata"
    IDE = "ide"


class Chipset(StrEnum):
    """The machine types, by qemu's names."""

    I440FX = "pc"
    Q35 = "q35"


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Where a disk is in a VM. The guest boots from the first `bootable` disk."""

    bus: Bus = Bus.VIRTIO_SCSI
    bootable: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of a VM. `disks` has the places by disk id; None means that the configuration does not say it."""

    chipset: Chipset = Chipset.I440FX
    uefi: bool = False
    cpus: int | None = None
    memory_bytes: int | None = None
    local_time: bool = False
    uuid: str | None = None
    disks: Mapping[str, DiskPlace] = field(default_factory=dict)
