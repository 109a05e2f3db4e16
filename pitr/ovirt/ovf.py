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
    return _child(_content(_parsed(document)), "ClusterName")


def is_windows(document: str) -> bool:
    """Return whether the guest is a Windows. Raises FormatError when the document is not a VM configuration."""
    for section in _content(_parsed(document)):
        if "OperatingSystemSection" in _type(section):
            return (_child(section, "Description") or "").lower().startswith("windows")
    return False


def network_interfaces(document: str) -> list[NetworkInterface]:
    """Return the VM's network interfaces. Raises FormatError when the document is not a VM configuration."""
    return [
        NetworkInterface(
            _child(item, "Name") or "", _child(item, "Connection") or "", _child(item, "MACAddress") or ""
        )
        for item in _parsed(document).iter()
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
    envelope = _parsed(document)
    content = _content(envelope)
    names = [child for child in content if _local(child) == "Name"]
    if not names:
        raise FormatError("the saved configuration has no VM name")
    names[0].text = name
    for parent in list(envelope.iter()):
        for child in list(parent):
            lost = _local(child) == "MACAddress" and (
                not keep_addresses or (child.text or "") in lost_addresses
            )
            if lost or _is_of_disks(parent, child):
                parent.remove(child)
        if _is_nic(parent) and _child(parent, "Connection") in lost_networks:
            for child in parent:
                # The network, and the vNIC profile through which the interface uses it.
                if _local(child) in ("Connection", "OtherResourceType"):
                    child.text = ""
    return ET.tostring(envelope, encoding="unicode", xml_declaration=False)


def _is_of_disks(parent: ET.Element, child: ET.Element) -> bool:
    name = _local(child)
    if name == "File":
        return _local(parent) == "References"
    if name == "Disk":
        return "DiskSection" in _type(parent) or _local(parent) == "DiskSection"
    if name == "Item":
        return (_child(child, "ResourceType") or "").strip() == _DISK_ITEM
    return "SnapshotsSection" in _type(child)


def _is_nic(item: ET.Element) -> bool:
    return _local(item) == "Item" and (_child(item, "ResourceType") or "").strip() == _NIC_ITEM


def _parsed(document: str) -> ET.Element:
    try:
        return ET.fromstring(document)  # noqa: S314 - the engine wrote it, and the record has its digest
    except ET.ParseError as error:
        raise FormatError(f"the saved configuration is not valid XML: {error}") from None


def _content(envelope: ET.Element) -> ET.Element:
    for child in envelope:
        if _local(child) in ("Content", "VirtualSystem"):
            return child
    raise FormatError("the saved configuration contains no VM")


def _child(parent: ET.Element, name: str) -> str | None:
    return next((child.text for child in parent if _local(child) == name and child.text), None)


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _type(element: ET.Element) -> str:
    return element.get(f"{{{_PREFIXES['xsi']}}}type", "")
