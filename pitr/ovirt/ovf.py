# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and adapt saved VM configurations, which are in oVirt's dialect of OVF."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Set
from dataclasses import dataclass

from pitr.errors import FormatError

#: The prefixes that oVirt writes. Some attribute values contain them, so they must stay the same.
_PREFIXES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1/",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
_DISK_ITEM = "17"
_NIC_ITEM = "10"


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """A network interface in a configuration; `network` and `mac` are "" if it has none."""

    name: str
    network: str
    mac: str


for _prefix, _namespace in _PREFIXES.items():
    ET.register_namespace(_prefix, _namespace)


def cluster_name(document: str) -> str | None:
    """Return the name of the VM's cluster, None if the document has none.

    Raises FormatError when the document is not a VM configuration.
    """
    return child_text(vm_of(parse(document)), "ClusterName")


def is_windows(document: str) -> bool:
    """Return whether the guest is a Windows. Raises FormatError when the document is not a VM configuration."""
    for section in vm_of(parse(document)):
        if "OperatingSystemSection" in _type(section):
            return (child_text(section, "Description") or "").lower().startswith("windows")
    return False


def network_interfaces(document: str) -> list[NetworkInterface]:
    """Return the VM's network interfaces. Raises FormatError when the document is not a VM configuration."""
    return [
        NetworkInterface(
            child_text(item, "Name") or "",
            child_text(item, "Connection") or "",
            child_text(item, "MACAddress") or "",
        )
        for item in parse(document).iter()
        if _is_nic(item)
    ]


def for_new_vm(
    document: str,
    name: str,
    *,
    keep_addresses: bool,
    lost_networks: Set[str] = frozenset(),
    lost_addresses: Set[str] = frozenset(),
) -> str:
    """Return the configuration with the new name and without disks; the caller attaches the new disks later.

    Snapshots are removed too, because they belong to the old disks. Without `keep_addresses` the MAC addresses are
    removed, so that the engine assigns new ones. Network interfaces lose the networks and addresses in
    `lost_networks` and `lost_addresses`. Raises FormatError when the document is not a VM configuration.
    """
    envelope = parse(document)
    content = vm_of(envelope)
    names = [child for child in content if local_name(child) == "Name"]
    if not names:
        raise FormatError("the saved configuration has no VM name")
    names[0].text = name
    for parent in list(envelope.iter()):
        for child in list(parent):
            lost = local_name(child) == "MACAddress" and (
                not keep_addresses or (child.text or "") in lost_addresses
            )
            if lost or _is_of_disks(parent, child):
                parent.remove(child)
        if _is_nic(parent) and child_text(parent, "Connection") in lost_networks:
            for child in parent:
                # The network, and the vNIC profile through which the interface uses it.
                if local_name(child) in ("Connection", "OtherResourceType"):
                    child.text = ""
    return ET.tostring(envelope, encoding="unicode", xml_declaration=False)


def _is_of_disks(parent: ET.Element, child: ET.Element) -> bool:
    name = local_name(child)
    if name == "File":
        return local_name(parent) == "References"
    if name == "Disk":
        return "DiskSection" in _type(parent) or local_name(parent) == "DiskSection"
    if name == "Item":
        return (child_text(child, "ResourceType") or "").strip() == _DISK_ITEM
    return "SnapshotsSection" in _type(child)


def _is_nic(item: ET.Element) -> bool:
    return local_name(item) == "Item" and (child_text(item, "ResourceType") or "").strip() == _NIC_ITEM


def parse(document: str) -> ET.Element:
    """Return the envelope of a configuration. Raises FormatError."""
    try:
        return ET.fromstring(document)  # noqa: S314 - the engine wrote it, and the record has its digest
    except ET.ParseError as error:
        raise FormatError(f"the saved configuration is not valid XML: {error}") from None


def vm_of(envelope: ET.Element) -> ET.Element:
    """Return the element that describes the VM. Raises FormatError."""
    for child in envelope:
        if local_name(child) in ("Content", "VirtualSystem"):
            return child
    raise FormatError("the saved configuration contains no VM")


def child_text(parent: ET.Element, name: str) -> str | None:
    """Return the text of the first child with this name, in any namespace, that has one."""
    return next((child.text for child in parent if local_name(child) == name and child.text), None)


def local_name(element: ET.Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _type(element: ET.Element) -> str:
    return element.get(f"{{{_PREFIXES['xsi']}}}type", "")
