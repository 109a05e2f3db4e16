# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the virtual hardware of a VM from its saved configuration.

Every value becomes a member of an enumeration, a number within bounds, or a UUID, or it is ignored: a hostile
configuration must not reach the command line of a program.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Final

from pitr.ovirt import ovf
from pitr.system.qemu.hardware import Bus, Chipset, DiskPlace, Hardware
from pitr.units import MIB

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUSES: Final = {
    "virtio": Bus.VIRTIO,
    "virtio_scsi": Bus.VIRTIO_SCSI,
    "sata": Bus.SATA,
    "ide": Bus.IDE,
    # A disk on a host's own SCSI bus, or on an emulated controller: the guest has at least SCSI disks.
    "spapr_vscsi": Bus.VIRTIO_SCSI,
}
#: oVirt's numbers: chipset and UEFI.
_BIOS_TYPES: Final = {
    "1": (Chipset.I440FX, False),
    "2": (Chipset.Q35, False),
    "3": (Chipset.Q35, True),
    "4": (Chipset.Q35, True),
}
_CPU_ITEM: Final = "3"
_MEMORY_ITEM: Final = "4"
_MOST_CPUS: Final = 512
_MOST_MEMORY: Final = 1 << 44


def hardware(document: str) -> Hardware:
    """Return the hardware in a VM configuration. Raises FormatError when the document is no VM configuration."""
    envelope = ovf.parse(document)
    content = ovf.vm_of(envelope)
    bios = (ovf.child_text(content, "BiosType") or ovf.child_text(content, "CustomBiosType") or "").strip()
    chipset, uefi = _BIOS_TYPES.get(bios, (Chipset.I440FX, False))
    return Hardware(
        chipset=chipset,
        uefi=uefi,
        cpus=_cpus(content),
        memory_bytes=_memory(content),
        local_time=ovf.is_windows(document),
        uuid=_uuid(content),
        disks=_disks(envelope),
    )


def bus_of(name: str | None) -> Bus | None:
    """Return the bus that the engine or a configuration calls `name`; None for an unknown one."""
    return _BUSES.get((name or "").strip().lower())


def _disks(envelope: ET.Element) -> dict[str, DiskPlace]:
    places: dict[str, DiskPlace] = {}
    for item in envelope.iter():
        file = _attribute(item, "fileRef")
        disk_id = (file or "").split("/")[0].lower()
        if ovf.local_name(item) == "Disk" and _UUID.fullmatch(disk_id):
            places[disk_id] = DiskPlace(
                bus_of(_attribute(item, "disk-interface")) or Bus.VIRTIO_SCSI,
                (_attribute(item, "boot") or "").strip().lower() == "true",
            )
    return places


def _cpus(content: ET.Element) -> int | None:
    for item in _items(content, _CPU_ITEM):
        counts = [
            _number(ovf.child_text(item, name), _MOST_CPUS)
            for name in ("num_of_sockets", "cpu_per_socket", "threads_per_cpu")
        ]
        product = 1
        for count in counts:
            product *= count or 1
        return min(product, _MOST_CPUS) if any(counts) else None
    return None


def _memory(content: ET.Element) -> int | None:
    for item in _items(content, _MEMORY_ITEM):
        megabytes = _number(ovf.child_text(item, "VirtualQuantity"), _MOST_MEMORY // MIB)
        return megabytes * MIB if megabytes else None
    return None


def _uuid(content: ET.Element) -> str | None:
    for section in content:
        identity = (_attribute(section, "id") or "").lower()
        if _UUID.fullmatch(identity):
            return identity
    return None


def _items(content: ET.Element, kind: str) -> list[ET.Element]:
    return [
        item
        for item in content.iter()
        if ovf.local_name(item) == "Item" and (ovf.child_text(item, "ResourceType") or "").strip() == kind
    ]


def _attribute(element: ET.Element, name: str) -> str | None:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def _number(text: str | None, most: int) -> int | None:
    """Return a positive number up to `most`; None for any other text."""
    text = (text or "").strip()
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        return None
    number = int(text)
    return number if 0 < number <= most else None
