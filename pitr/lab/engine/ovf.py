# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a VM's configuration as OVF for `all_content=true`, and read it in POST /vms."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC

from pitr.lab.engine.state import VM, Attachment, Disk

_OVF = "http://schemas.dmtf.org/ovf/envelope/1/"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_INTERFACES = {"virtio_scsi": "VirtIO_SCSI", "virtio": "VirtIO", "sata": "SATA", "ide": "IDE"}
_GIB = 1 << 30

ET.register_namespace("ovf", _OVF)
ET.register_namespace("rasd", _RASD)
ET.register_namespace("xsi", _XSI)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A VM's configuration in an OVF document; `attachments` keep its order."""

    vm_id: str | None
    name: str
    description: str
    memory: int
    compat: str
    nics: dict[str, str]
    attachments: tuple[Attachment, ...]
    os: str
    networks: frozenset[str]


def write(vm: VM, disks: Iterable[Disk]) -> str:
    """Return the OVF document of `vm` with its `disks`."""
    disks = list(disks)
    envelope = ET.Element(f"{{{_OVF}}}Envelope", {f"{{{_OVF}}}version": f"{vm.compat}.0.0"})
    references = ET.SubElement(envelope, "References")
    section = ET.SubElement(envelope, "Section", {f"{{{_XSI}}}type": "ovf:DiskSection_Type"})
    ET.SubElement(section, "Info").text = "List of Virtual Disks"
    for disk in disks:
        file = f"{disk.id}/{disk.image_id}"
        attachment = vm.attachments[disk.id]
        ET.SubElement(
            references,
            "File",
            _ovf(href=file, id=disk.image_id, size=disk.size, description=disk.description),
        )
        description = _ovf(
            diskId=disk.image_id,
            size=-(-disk.size // _GIB),
            fileRef=file,
            parentRef="",
            format="http://www.gnome.org/~markmc/qcow-image-format.html",
            boot=str(attachment.bootable).lower(),
        )
        description |= _ovf(
            **{
                "volume-format": disk.format.upper() if disk.format == "cow" else "RAW",
                "volume-type": "Sparse" if disk.sparse else "Preallocated",
                "disk-interface": _INTERFACES.get(attachment.interface, "VirtIO_SCSI"),
                "disk-alias": disk.name,
                "incremental-backup": str(disk.incremental).lower(),
            }
        )
        ET.SubElement(section, "Disk", description)
    _write_content(envelope, vm, disks)
    return ET.tostring(envelope, encoding="unicode", xml_declaration=False)


def read(document: str) -> Configuration:
    """Parse an OVF document. Raises ValueError if it is invalid."""
    try:
        envelope = ET.fromstring(document)  # noqa: S314 - the lab's own clients sent it
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
    content = envelope.find("Content")
    name = None if content is None else content.findtext("Name")
    if content is None or not name:
        raise ValueError("no Content with a Name")
    system = content.find(f"Section[@{{{_OVF}}}id]")
    megabytes = content.findtext(f".//Item[{{{_RASD}}}ResourceType='4']/{{{_RASD}}}VirtualQuantity")
    return Configuration(
        vm_id=None if system is None else system.get(f"{{{_OVF}}}id"),
        name=name,
        description=content.findtext("Description") or "",
        memory=int(megabytes or 1024) << 20,
        compat=content.findtext("ClusterCompatibilityVersion") or "4.6",
        nics=_nics(content),
        attachments=tuple(_attachment(disk) for disk in envelope.iterfind("Section/Disk")),
        os=(system.findtext("Description") if system is not None else None) or "other",
        networks=frozenset(
            item.findtext(f"{{{_RASD}}}Connection") or ""
            for item in content.iterfind(f".//Item[{{{_RASD}}}ResourceType='10']")
        ),
    )


def _write_content(envelope: ET.Element, vm: VM, disks: list[Disk]) -> None:
    if vm.nics:
        networks = ET.SubElement(envelope, "NetworkSection")
        ET.SubElement(networks, "Info").text = "List of networks"
        ET.SubElement(networks, "Network", _ovf(name=vm.network))
    content = ET.SubElement(
        envelope, "Content", {f"{{{_OVF}}}id": "out", f"{{{_XSI}}}type": "ovf:VirtualSystem_Type"}
    )
    ET.SubElement(content, "Name").text = vm.name
    ET.SubElement(content, "Description").text = vm.description
    ET.SubElement(content, "CreationDate").text = vm.created.astimezone(UTC).strftime("%Y/%m/%d %H:%M:%S")
    ET.SubElement(content, "ClusterName").text = "Default"
    ET.SubElement(content, "ClusterCompatibilityVersion").text = vm.compat
    system = ET.SubElement(
        content,
        "Section",
        {f"{{{_XSI}}}type": "ovf:OperatingSystemSection_Type"} | _ovf(id=vm.id, required="false"),
    )
    ET.SubElement(system, "Info").text = "Guest Operating System"
    ET.SubElement(system, "Description").text = vm.os
    hardware = ET.SubElement(content, "Section", {f"{{{_XSI}}}type": "ovf:VirtualHardwareSection_Type"})
    _item(
        hardware, Caption=f"{vm.memory >> 20} MB of memory", ResourceType=4, VirtualQuantity=vm.memory >> 20
    )
    for disk in disks:
        _item(
            hardware,
            Caption=disk.name,
            InstanceId=disk.image_id,
            ResourceType=17,
            HostResource=f"{disk.id}/{disk.image_id}",
        )
    for name, mac in vm.nics.items():
        _item(
            hardware,
            Caption=f"Ethernet adapter on {vm.network}",
            InstanceId=str(uuid.uuid4()),
            ResourceType=10,
            OtherResourceType=vm.network,
            ResourceSubType=3,
            Connection=vm.network,
            Linked="true",
            Name=name,
            MACAddress=mac,
        )


def _item(hardware: ET.Element, **values: object) -> None:
    item = ET.SubElement(hardware, "Item")
    for name, value in values.items():
        ET.SubElement(item, f"{{{_RASD}}}{name}").text = str(value)


def _ovf(**attributes: object) -> dict[str, str]:
    return {f"{{{_OVF}}}{name}": str(value) for name, value in attributes.items()}


def _nics(content: ET.Element) -> dict[str, str]:
    """Return the MAC addresses by interface name; a missing address is empty."""
    found = content.iterfind(f".//Item[{{{_RASD}}}ResourceType='10']")
    return {
        item.findtext(f"{{{_RASD}}}Name") or "": item.findtext(f"{{{_RASD}}}MACAddress") or ""
        for item in found
    }


def _attachment(disk: ET.Element) -> Attachment:
    file = disk.get(f"{{{_OVF}}}fileRef") or ""
    interfaces = {theirs: ours for ours, theirs in _INTERFACES.items()}
    return Attachment(
        disk_id=file.split("/")[0],
        bootable=disk.get(f"{{{_OVF}}}boot") == "true",
        interface=interfaces.get(disk.get(f"{{{_OVF}}}disk-interface") or "", "virtio_scsi"),
    )
