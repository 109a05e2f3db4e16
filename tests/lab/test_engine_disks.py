# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that a restore creates on the engine: disks and VMs from configurations."""

from __future__ import annotations

import pytest
from ovirtsdk4 import types

from pitr.lab import Lab
from tests.support.sdk_client import Client, refused, wait_for

MIB = 1 << 20
RAW = types.DiskFormat.RAW
CHOSEN = "11111111-2222-4333-8444-555555555555"


def test_a_new_disk_is_locked_then_ok_and_has_the_requested_id_and_size(new_lab: Lab, client: Client) -> None:
    answer = client.add_disk(
        size=10487296, id=CHOSEN, name="restored", sparse=True, backup=types.DiskBackup.INCREMENTAL
    )
    assert (answer.id, answer.status) == (CHOSEN, types.DiskStatus.LOCKED)
    disk = client.await_disk(CHOSEN)
    assert (disk.name, disk.provisioned_size, disk.format) == ("restored", 10487296, types.DiskFormat.COW)
    assert disk.backup == types.DiskBackup.INCREMENTAL
    domain = client.connection.follow_link(disk.storage_domains[0])
    assert (domain.name, domain.type, domain.storage.type) == (
        "data",
        types.StorageDomainType.DATA,
        types.StorageType.NFS,
    )
    # The host rounds the volume up to 4 KiB.
    assert new_lab.host.volume(CHOSEN).size == 10489856


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": RAW, "backup": types.DiskBackup.INCREMENTAL}, "not supported for RAW"),
        ({"format": RAW, "sparse": True, "block": True}, "RAW Sparse"),
        ({"sparse": False}, "COW Preallocated"),
        ({"id": "taken"}, "already exists"),
    ],
)
def test_invalid_combinations_are_refused(
    new_lab: Lab, client: Client, options: dict[str, object], text: str
) -> None:
    if options.pop("block", False):
        new_lab.add_storage_domain("lun", storage_type="iscsi")
        options["storage_domains"] = [types.StorageDomain(name="lun")]
    if options.get("id") == "taken":
        options["id"] = new_lab.add_disk("there", MIB).id
    error = refused(lambda: client.add_disk(size=MIB, **options))
    assert error.code == 409
    assert text in error.fault.detail


def test_an_unknown_storage_domain_is_missing(client: Client) -> None:
    nowhere = [types.StorageDomain(name="nowhere")]
    assert refused(lambda: client.add_disk(size=MIB, storage_domains=nowhere)).code == 404


def test_a_disk_whose_creation_fails_is_illegal_and_can_be_removed(new_lab: Lab, client: Client) -> None:
    new_lab.engine.faults.fail("disk creation")
    disk_id = client.add_disk(size=MIB).id
    wait_for(client.disk(disk_id).get, lambda disk: disk.status == types.DiskStatus.ILLEGAL)
    client.disk(disk_id).remove()
    assert new_lab.disks == []


def test_the_data_center_knows_which_domains_are_active(new_lab: Lab, client: Client) -> None:
    new_lab.add_storage_domain("old", active=False)
    (center,) = client.system.data_centers_service().list(search="storage.name=old")
    domains = client.system.data_centers_service().data_center_service(center.id).storage_domains_service()
    assert {each.name: each.status.value for each in domains.list()} == {
        "data": "active",
        "old": "maintenance",
    }
    active = client.system.storage_domains_service().list(search="status=active and type=data")
    assert [each.name for each in active] == ["data"]


def test_vms_are_found_by_exact_names_and_patterns(new_lab: Lab, client: Client) -> None:
    for name in ("web1", "web2", "a b", 'say "hi"'):
        new_lab.add_vm(name)
    service = client.system.vms_service()

    def found(search: str) -> list[str]:
        return sorted(vm.name for vm in service.list(search=search))

    assert found("name=web1") == ["web1"]
    assert found("name=web*") == ["web1", "web2"]
    assert found('name="a b"') == ["a b"]
    assert found(r'name="say \"hi\""') == ['say "hi"']
    assert found("name=WEB1") == []
    assert refused(lambda: service.list(search="colour=red")).code == 400


def test_attaching_and_detaching_by_the_api(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    vm.start()
    disk = new_lab.add_disk("lone", MIB)
    attachments = client.vm(vm).disk_attachments_service()
    attachments.add(
        types.DiskAttachment(
            disk=types.Disk(id=disk.id),
            active=True,
            bootable=True,
            interface=types.DiskInterface.VIRTIO_SCSI,
        )
    )
    (found,) = attachments.list()
    assert (found.id, found.disk.id, found.bootable, found.active) == (disk.id, disk.id, True, True)
    with disk.guest() as guest:
        guest.write(0, b"hot")
    other = types.DiskAttachment(disk=types.Disk(id=disk.id), active=True)
    second = client.vm(new_lab.add_vm("db1")).disk_attachments_service()
    assert refused(lambda: second.add(other)).code == 409
    attachments.attachment_service(disk.id).remove(detach_only=True)
    assert (list(attachments.list()), new_lab.disk(disk.id).status) == ([], "ok")


def configuration(client: Client, vm_id: str) -> types.Configuration | None:
    vm = client.system.vms_service().vm_service(vm_id).get(all_content=True)
    return vm.initialization.configuration if vm.initialization else None


def import_vm(client: Client, data: str, **options: object) -> types.Vm:
    ovf = types.Configuration(type=types.ConfigurationType.OVF, data=data)
    wanted = types.Vm(
        cluster=types.Cluster(name="Default"),
        initialization=types.Initialization(regenerate_ids=True, configuration=ovf),
    )
    for name, value in options.items():
        setattr(wanted, name, value)
    return client.system.vms_service().add(wanted)


def test_a_vm_from_a_saved_configuration_gets_the_disks_of_the_original(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1", description="shop & <more>")
    boot, data = vm.add_disk("boot", MIB, bootable=True), vm.add_disk("data", 2 * MIB, format="raw")
    saved = configuration(client, vm.id)
    assert saved is not None
    assert saved.type == types.ConfigurationType.OVF
    assert refused(lambda: import_vm(client, saved.data)).code == 409
    vm.detach(boot)

    new = import_vm(client, saved.data, name="web1-restored")
    assert (new.id != vm.id, new.name, new.description) == (True, "web1-restored", "shop & <more>")
    attachments = client.system.vms_service().vm_service(new.id).disk_attachments_service().list()
    assert [(each.disk.id, each.bootable) for each in attachments] == [(boot.id, True)]
    # The other disk still belongs to the original, so the engine only logs an event.
    (event,) = client.system.events_service().list(search=data.id)
    assert event.severity == types.LogSeverity.WARNING


def test_without_new_ids_the_original_must_be_gone(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    saved = configuration(client, vm.id)
    assert saved is not None
    ovf = types.Configuration(type=types.ConfigurationType.OVF, data=saved.data)
    same = types.Initialization(regenerate_ids=False, configuration=ovf)
    error = refused(lambda: import_vm(client, saved.data, name="other", initialization=same))
    assert (error.code, error.fault.detail) == (409, "[Cannot import VM. The VM ID is already in use.]")


def test_a_vm_needs_a_cluster_and_a_readable_configuration(new_lab: Lab, client: Client) -> None:
    assert refused(lambda: import_vm(client, "<x/>", cluster=None)).code == 400
    assert refused(lambda: import_vm(client, "<x/>")).code == 400
    assert refused(lambda: import_vm(client, "no xml")).code == 400


def test_the_configuration_can_be_absent_for_a_moment(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    new_lab.engine.faults.fail("configuration")
    assert configuration(client, vm.id) is None
    assert configuration(client, vm.id) is not None


def test_jobs_are_found_by_their_correlation_id(new_lab: Lab, client: Client) -> None:
    wanted = types.Disk(
        format=RAW, provisioned_size=MIB, storage_domains=[types.StorageDomain(name=new_lab.storage_domain)]
    )
    disk = client.system.disks_service().add(wanted, query={"correlation_id": "pitr-7"})
    client.await_disk(disk.id)
    (job,) = client.system.jobs_service().list(search="correlation_id=pitr-7")
    assert job.status == types.JobStatus.FINISHED
