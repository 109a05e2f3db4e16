# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved configurations of VMs (oVirt's dialect of OVF): what a new VM is made from."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pitr.errors import FormatError

#: The prefixes that oVirt writes: some of its attributes hold names with them, which only a text compare finds.
_PREFIXES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1/",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
_DISK_ITEM = "17"

for _prefix, _namespace in _PREFIXES.items():
    ET.register_namespace(_prefix, _namespace)


def cluster_name(document: str) -> str | None:
    """The cluster that the VM was in, if the document tells. Raises FormatError when it is no configuration."""
    return _child(_content(_parsed(document)), "ClusterName")


def for_new_vm(document: str, name: str, *, keep_addresses: bool) -> str:
    """The configuration with another name and without disks, which are attached one by one when they are there.

    Snapshots go too: they are of the old disks. Without `keep_addresses` the network interfaces lose their MAC
    addresses, so that the engine gives them new ones. Raises FormatError when it is no configuration.
    """
    envelope = _parsed(document)
    content = _content(envelope)
    named = [child for child in content if _local(child) == "Name"]
    if not named:
        raise FormatError("the saved configuration does not name its VM")
    named[0].text = name
    for parent in list(envelope.iter()):
        for child in list(parent):
            if _is_of_disks(parent, child) or (not keep_addresses and _local(child) == "MACAddress"):
                parent.remove(child)
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


def _parsed(document: str) -> ET.Element:
    try:
        return ET.fromstring(document)  # noqa: S314 - the engine's own, guarded by the record's digest
    except ET.ParseError as error:
        raise FormatError(f"the saved configuration is not XML: {error}") from None


def _content(envelope: ET.Element) -> ET.Element:
    for child in envelope:
        if _local(child) in ("Content", "VirtualSystem"):
            return child
    raise FormatError("the saved configuration describes no VM")


def _child(parent: ET.Element, name: str) -> str | None:
    return next((child.text for child in parent if _local(child) == name and child.text), None)


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _type(element: ET.Element) -> str:
    return element.get(f"{{{_PREFIXES['xsi']}}}type", "")
