# SPDX-License-Identifier: GPL-2.0-or-later
"""Render the engine's entities as XML for the SDK."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pitr.lab.engine import state as entities
from pitr.lab.engine import vms
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.xml import element, leaf, leaves

API = "/ovirt-engine/api"


def reference(tag: str, collection: str, entity_id: str) -> ET.Element:
    """A link to another entity. The SDK follows it only when the href is complete."""
    return element(tag, href=f"{API}/{collection}/{entity_id}", id=entity_id)


def api(installation: Installation) -> ET.Element:
    version = element("version", leaves(build=7, full_version="4.5.7-1.el9", major=4, minor=5, revision=0))
    return element(
        "api",
        [
            element(
                "product_info",
                [*leaves(name="oVirt Engine (simulated by pitr lab)", vendor="ovirt.org"), version],
            ),
            leaf("time", installation.clock.now()),
        ],
    )


def action() -> ET.Element:
    return element("action", leaves(status="complete"))


def fault(detail: str, reason: str) -> ET.Element:
    return element("fault", leaves(detail=detail, reason=reason))


def disk(installation: Installation, each: entities.Disk) -> ET.Element:
    if each.storage_type == "lun":
        return _lun(each)
    # Ask the host without the engine's lock, because it can be busy for long.
    actual = _actual_size(installation, each)
    return element(
        "disk",
        [
            *leaves(
                name=each.name,
                description=each.description,
                actual_size=actual,
                alias=each.name,
                backup="incremental" if each.incremental else "none",
                content_type=each.content_type,
                format=each.format,
                image_id=each.image_id,
                initial_size=each.initial_size,
                propagate_errors=each.propagate_errors,
                provisioned_size=each.size,
                qcow_version="qcow2_v3" if each.format == "cow" else None,
                shareable=each.shareable,
                sparse=each.sparse,
                status=each.status,
                storage_type="image",
                total_size=actual,
                wipe_after_delete=each.wipe_after_delete,
            ),
            reference("disk_profile", "diskprofiles", each.profile_id) if each.profile_id else None,
            element(
                "storage_domains",
                [reference("storage_domain", "storagedomains", each.storage_domain_id)],
            ),
        ],
        href=f"{API}/disks/{each.id}",
        id=each.id,
    )


def _lun(each: entities.Disk) -> ET.Element:
    """Render a LUN disk: it has no image and no format, and the LUN has the size."""
    unit = element("logical_unit", leaves(size=each.size), id=each.image_id)
    return element(
        "disk",
        [
            *leaves(name=each.name, description=each.description, alias=each.name, content_type="data"),
            *leaves(shareable=each.shareable, storage_type="lun"),
            element("lun_storage", [element("logical_units", [unit])]),
        ],
        href=f"{API}/disks/{each.id}",
        id=each.id,
    )


def backup_disk(installation: Installation, each: entities.Disk, mode: str) -> ET.Element:
    shown = disk(installation, each)
    shown.append(element("backup_mode"))
    shown[-1].text = mode
    return shown


def attachment(vm_id: str, each: entities.Attachment) -> ET.Element:
    return element(
        "disk_attachment",
        [
            *leaves(
                active=each.active,
                bootable=each.bootable,
                interface=each.interface,
                pass_discard=each.pass_discard,
                read_only=each.read_only,
                uses_scsi_reservation=each.uses_scsi_reservation,
            ),
            reference("disk", "disks", each.disk_id),
            reference("vm", "vms", vm_id),
        ],
        href=f"{API}/vms/{vm_id}/diskattachments/{each.disk_id}",
        id=each.disk_id,
    )


def vm(
    installation: Installation, each: entities.VM, *, all_content: bool = False, nics: bool = False
) -> ET.Element:
    href = f"{API}/vms/{each.id}"
    major, _, minor = each.compat.partition(".")
    initialization = None
    if all_content and not installation.faults.happens("configuration"):
        configuration = leaves(data=vms.configuration(installation, each), type="ovf")
        initialization = element("initialization", [element("configuration", configuration)])
    links = ("diskattachments", "snapshots", "backups", "checkpoints", "tags")
    return element(
        "vm",
        [
            element("actions"),
            *leaves(name=each.name, description=each.description),
            *(element("link", rel=rel, href=f"{href}/{rel}") for rel in links),
            *leaves(creation_time=each.created),
            element("custom_compatibility_version", leaves(major=int(major), minor=int(minor))),
            initialization,
            *leaves(memory=each.memory, origin=each.origin, status=each.status, type="server"),
            reference("cluster", "clusters", installation.state.cluster_id),
            reference("host", "hosts", installation.state.host_id) if each.running else None,
            reference("original_template", "templates", each.original_template_id),
            reference("template", "templates", each.template_id),
            element("nics", [nic(each.id, name, mac) for name, mac in each.nics.items()]) if nics else None,
        ],
        href=href,
        id=each.id,
    )


def backup(installation: Installation, each: entities.Backup) -> ET.Element:
    href = f"{API}/vms/{each.vm_id}/backups/{each.id}"
    return element(
        "backup",
        [
            element("actions", [element("link", rel="finalize", href=f"{href}/finalize")]),
            element("link", rel="disks", href=f"{href}/disks"),
            *leaves(
                creation_date=each.created,
                description=each.description or None,
                from_checkpoint_id=each.from_checkpoint_id,
                modification_date=each.modified,
                phase=each.phase,
                to_checkpoint_id=each.to_checkpoint_id,
            ),
            reference("host", "hosts", installation.state.host_id),
            reference("snapshot", f"vms/{each.vm_id}/snapshots", each.snapshot_id)
            if each.snapshot_id
            else None,
            reference("vm", "vms", each.vm_id),
        ],
        href=href,
        id=each.id,
    )


def tag(name: str) -> ET.Element:
    return element("tag", leaves(name=name), href=f"{API}/tags/{name}", id=name)


def checkpoint(each: entities.Checkpoint) -> ET.Element:
    href = f"{API}/vms/{each.vm_id}/checkpoints/{each.id}"
    return element(
        "checkpoint",
        [
            element("link", rel="disks", href=f"{href}/disks"),
            *leaves(
                creation_date=each.created,
                description=each.description or None,
                parent_id=each.parent_id,
                state=each.state,
            ),
            reference("vm", "vms", each.vm_id),
        ],
        href=href,
        id=each.id,
    )


def transfer(installation: Installation, each: entities.Transfer) -> ET.Element:
    href = f"{API}/imagetransfers/{each.id}"
    url = f"{installation.host.images_url}/{each.ticket_id}" if each.ticket_id is not None else None
    actions = ("cancel", "extend", "finalize", "pause", "resume")
    return element(
        "image_transfer",
        [
            element("actions", [element("link", rel=rel, href=f"{href}/{rel}") for rel in actions]),
            *leaves(
                active=each.active,
                direction=each.direction,
                format=each.format,
                inactivity_timeout=each.inactivity_timeout_s,
                phase=each.phase,
                # The lab has one daemon, which is also the engine's proxy.
                proxy_url=url,
                shallow=each.shallow,
                timeout_policy=each.timeout_policy,
                transfer_url=url,
                transferred=each.transferred,
            ),
            reference("host", "hosts", installation.state.host_id),
            element("image", id=each.disk_id),
        ],
        href=href,
        id=each.id,
    )


def storage_domain(
    installation: Installation, each: entities.StorageDomain, *, in_data_center: bool = False
) -> ET.Element:
    center_id = each.data_center_id or installation.state.data_center_id
    data_centers = [reference("data_center", "datacenters", center_id)]
    status = "active" if each.active else "maintenance"
    return element(
        "storage_domain",
        [
            *leaves(
                name=each.name,
                available=each.available,
                block_size=512,
                committed=0,
                external_status="ok",
                master=False,
                # Only the data center shows a domain's status; the plain list does not.
                status=status if in_data_center else None,
                storage_format="v5",
                type="data",
                used=1 << 30,
            ),
            element("storage", leaves(type=each.storage_type)),
            element("data_centers", data_centers),
        ],
        href=f"{API}/storagedomains/{each.id}",
        id=each.id,
    )


def disk_profile(domain: entities.StorageDomain, profile_id: str) -> ET.Element:
    return element(
        "disk_profile",
        [
            leaf("name", domain.profiles[profile_id]),
            reference("storage_domain", "storagedomains", domain.id),
        ],
        href=f"{API}/diskprofiles/{profile_id}",
        id=profile_id,
    )


def network(installation: Installation, name: str) -> ET.Element:
    """Render a network of the cluster. Its name also serves as its id."""
    return element(
        "network",
        [leaf("name", name), reference("data_center", "datacenters", installation.state.data_center_id)],
        href=f"{API}/networks/{name}",
        id=name,
    )


def vnic_profile(name: str) -> ET.Element:
    return element(
        "vnic_profile",
        [leaf("name", name), reference("network", "networks", name)],
        href=f"{API}/vnicprofiles/{name}",
        id=name,
    )


def nic(vm_id: str, name: str, address: str) -> ET.Element:
    """Render a network interface of a VM. Its name also serves as its id."""
    return element(
        "nic",
        [leaf("name", name), element("mac", [leaf("address", address)]), reference("vm", "vms", vm_id)],
        href=f"{API}/vms/{vm_id}/nics/{name}",
        id=name,
    )


def host(installation: Installation) -> ET.Element:
    return element(
        "host",
        [
            *leaves(name="host1", address="localhost", status="up", type="ovirt_node"),
            reference("cluster", "clusters", installation.state.cluster_id),
        ],
        href=f"{API}/hosts/{installation.state.host_id}",
        id=installation.state.host_id,
    )


def cluster(installation: Installation) -> ET.Element:
    return element(
        "cluster",
        [
            leaf("name", "Default"),
            reference("data_center", "datacenters", installation.state.data_center_id),
            element("version", leaves(major=4, minor=6)),
        ],
        href=f"{API}/clusters/{installation.state.cluster_id}",
        id=installation.state.cluster_id,
    )


def data_center(installation: Installation) -> ET.Element:
    href = f"{API}/datacenters/{installation.state.data_center_id}"
    return element(
        "data_center",
        [
            *leaves(name="Default", local=False, status="up"),
            element("link", rel="storagedomains", href=f"{href}/storagedomains"),
        ],
        href=href,
        id=installation.state.data_center_id,
    )


def snapshot(vm_id: str, snapshot_id: str, description: str, kind: str) -> ET.Element:
    return element(
        "snapshot",
        [
            *leaves(description=description, snapshot_status="ok", snapshot_type=kind),
            reference("vm", "vms", vm_id),
        ],
        href=f"{API}/vms/{vm_id}/snapshots/{snapshot_id}",
        id=snapshot_id,
    )


def event(each: entities.Event) -> ET.Element:
    return element(
        "event",
        [
            *leaves(
                description=each.description,
                code=each.code,
                correlation_id=each.correlation_id,
                origin="oVirt",
                severity=each.severity,
                time=each.time,
            ),
            reference("vm", "vms", each.vm_id) if each.vm_id else None,
        ],
        href=f"{API}/events/{each.id}",
        id=str(each.id),
    )


def job(each: entities.Job) -> ET.Element:
    return element(
        "job",
        leaves(
            description=each.description,
            auto_cleared=True,
            end_time=each.ended,
            external=False,
            last_updated=each.ended or each.started,
            start_time=each.started,
            status=each.status,
        ),
        href=f"{API}/jobs/{each.id}",
        id=each.id,
    )


def _actual_size(installation: Installation, each: entities.Disk) -> int:
    if not each.has_volume:
        return 0
    try:
        return installation.host.volume(each.id).path.stat().st_blocks * 512
    except FileNotFoundError:
        # Another thread deleted it in between.
        return 0
