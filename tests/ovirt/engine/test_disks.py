# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import re
from typing import Any

import pytest

from pitr.errors import EngineBusy, EngineError, NoSuchDisk, UsageError
from pitr.ovirt.engine import (
    Disk,
    Engine,
    NewDisk,
    attach_disk,
    create_disk,
    delete_disk,
    get_disk,
    list_storage_domains,
    vm_disks,
)
from tests.support.scripted_engine import DROP, MISSING, Answer, Script, fault

ID = "d1d1d1d1-1111-1111-1111-111111111111"
LOCKED = fault(409, "[Cannot remove Virtual Disk: The following disks are locked: new]")


def disk(status: str = "ok", size: int = 1 << 20, more: str = "") -> str:
    return (
        f'<disk id="{ID}"><alias>new</alias><name>new</name><provisioned_size>{size}</provisioned_size>'
        f"<format>cow</format><sparse>true</sparse><backup>incremental</backup><status>{status}</status>"
        '<storage_type>image</storage_type><storage_domains><storage_domain id="s1"/></storage_domains>'
        f"{more}</disk>"
    )


def create(engine: Engine, **changes: Any) -> Disk:
    values: dict[str, Any] = {
        "name": "new",
        "size": 1 << 20,
        "format": "cow",
        "sparse": True,
        "storage_domain_id": "s1",
        "backup_enabled": True,
        "disk_id": ID,
    }
    timeout_s = changes.pop("timeout_s", 5.0)
    return create_disk(engine, NewDisk(**values | changes), timeout_s=timeout_s)


def removable(script: Script) -> None:
    """Let the engine remove the disk."""
    script.on(
        "DELETE",
        f"/disks/{ID}",
        LOCKED,
        Answer(200, "<action/>", then=lambda: script.on("GET", f"/disks/{ID}", MISSING)),
    )


def test_a_created_disk_is_waited_for(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", MISSING, disk("locked"), disk("surprising"), disk())
    script.on("POST", "/disks", Answer(202, disk("locked")))
    found = create(engine, description="of a test", initial_size=4096)
    assert (found.id, found.name, found.size, found.status) == (ID, "new", 1 << 20, "ok")
    assert found.backup_enabled and found.sparse and found.storage_domain_ids == ("s1",)
    body = next(body for body in script.bodies if body)
    for text in (
        "<format>cow</format>",
        "<sparse>true</sparse>",
        "<provisioned_size>1048576</provisioned_size>",
        "<initial_size>4096</initial_size>",
        "<backup>incremental</backup>",
        "<content_type>data</content_type>",
        "<description>of a test</description>",
    ):
        assert text in body
    assert re.search(r'<storage_domain id="s1"', body)


def test_a_lost_answer_to_creating_a_disk_does_not_create_a_second(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", MISSING, disk())
    script.on("POST", "/disks", DROP)
    assert create(engine).id == ID


def test_an_existing_disk_with_the_id_is_not_touched(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", disk())
    with pytest.raises(UsageError, match=r"exists already"):
        create(engine)
    assert script.asked("DELETE", ".*") == script.asked("POST", "/disks") == 0


def test_a_refused_disk_is_reported_with_the_engines_text(engine: Engine, script: Script) -> None:
    script.on("POST", "/disks", fault(409, "[Cannot add Virtual Disk. Disk configuration is not compatible]"))
    with pytest.raises(EngineError, match=r"creating disk 'new': .* answered 409: Cannot add Virtual Disk"):
        create(engine)


@pytest.mark.parametrize("end", ["illegal", "gone", "locked", "too small"])
def test_a_disk_that_does_not_become_ready_is_removed(engine: Engine, script: Script, end: str) -> None:
    ends: dict[str, Answer | str] = {
        "illegal": disk("illegal"),
        "gone": MISSING,
        "locked": disk("locked"),
        "too small": disk(size=512),
    }
    script.on("GET", f"/disks/{ID}", MISSING, disk("locked"), ends[end])
    script.on("POST", "/disks", Answer(202, disk("locked")))
    removable(script)
    with pytest.raises(EngineError, match=r"illegal|disappeared|still locked|512 bytes"):
        create(engine, timeout_s=0.3)
    assert script.asked("DELETE", f"/disks/{ID}") == 2


def test_an_interrupted_creation_removes_the_disk(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", MISSING, Answer(body=disk("locked")))
    script.on("POST", "/disks", Answer(202, disk("locked")))
    removable(script)

    def interrupt(*_: object) -> None:
        script.requests.append(("interrupted", ""))
        raise KeyboardInterrupt

    engine_call = engine.call

    def call(what: str, *arguments: Any, **more: Any) -> Any:
        if (
            what.startswith("reading disk")
            and script.asked("POST", "/disks")
            and not script.asked("interrupted", "")
        ):
            interrupt()
        return engine_call(what, *arguments, **more)

    engine.call = call  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        create(engine)
    assert script.asked("DELETE", f"/disks/{ID}") == 2


def test_a_disk_that_cannot_be_removed_is_a_note_on_the_first_error(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", MISSING, disk("illegal"))
    script.on("POST", "/disks", Answer(202, disk("locked")))
    script.on("DELETE", f"/disks/{ID}", fault(403, "[no permission]"))
    with pytest.raises(EngineError, match=r"is illegal") as caught:
        create(engine)
    assert "cannot remove disk" in caught.value.__notes__[0]


def test_deleting_waits_for_a_locked_disk_and_accepts_a_missing_disk(engine: Engine, script: Script) -> None:
    script.on("GET", f"/disks/{ID}", disk())
    removable(script)
    delete_disk(engine, ID, 5.0)
    script.on("DELETE", f"/disks/{ID}", MISSING)
    delete_disk(engine, ID, 5.0)
    script.on("DELETE", f"/disks/{ID}", LOCKED)
    with pytest.raises(EngineBusy, match=r"locked"):
        delete_disk(engine, ID, 0.1)


def test_the_disks_of_a_vm_come_with_their_attachments(engine: Engine, script: Script) -> None:
    script.on(
        "GET",
        "/vms/v1/diskattachments",
        f'<disk_attachments><disk_attachment id="{ID}"><disk id="{ID}"/><interface>virtio_scsi</interface>'
        "<bootable>true</bootable><active>false</active></disk_attachment></disk_attachments>",
    )
    script.on("GET", f"/disks/{ID}", disk(more="<content_type>data</content_type>"))
    (found,) = vm_disks(engine, "v1")
    assert (found.interface, found.bootable, found.active, found.format) == (
        "virtio_scsi",
        True,
        False,
        "cow",
    )
    assert (found.storage_type, found.content_type, found.shareable) == ("image", "data", False)


def test_an_id_never_becomes_part_of_a_path(engine: Engine, script: Script) -> None:
    for disk_id in ("../vms", "", "a?b", "a/b", "x y"):
        with pytest.raises(NoSuchDisk):
            get_disk(engine, disk_id)
    assert script.requests == []


def test_attaching_reports_a_busy_vm_and_survives_a_lost_answer(engine: Engine, script: Script) -> None:
    path = "/vms/v1/diskattachments"
    attached = (
        f'<disk_attachments><disk_attachment id="{ID}"><disk id="{ID}"/></disk_attachment></disk_attachments>'
    )
    script.on("GET", path, "<disk_attachments/>")
    script.on("POST", path, LOCKED)
    with pytest.raises(EngineBusy):
        attach_disk(engine, "v1", ID, bootable=False, active=True)
    script.on("GET", path, attached)
    script.on("POST", path, DROP)
    attach_disk(engine, "v1", ID, bootable=True, active=True)
    assert "<interface>virtio_scsi</interface>" in script.bodies[-2] + script.bodies[-3]
    with pytest.raises(UsageError, match=r"floppy"):
        attach_disk(engine, "v1", ID, interface="floppy", bootable=False, active=True)


def test_storage_domains_know_their_kind_and_whether_they_are_active(engine: Engine, script: Script) -> None:
    def domain(domain_id: str, kind: str, more: str) -> str:
        return (
            f'<storage_domain id="{domain_id}"><name>{domain_id}</name><type>data</type>'
            f"<storage><type>{kind}</type></storage>{more}</storage_domain>"
        )

    centers = '<data_centers><data_center id="dc"/></data_centers>'
    script.on(
        "GET",
        "/storagedomains",
        "<storage_domains>"
        + domain("s4", "iscsi", centers)
        + domain("s3", "nfs", centers)
        + domain("s2", "nfs", "<status>maintenance</status>")
        + domain("s1", "fcp", "<status>active</status>")
        + "</storage_domains>",
    )
    script.on("GET", "/datacenters/dc/storagedomains/s3", domain("s3", "nfs", "<status>active</status>"))
    script.on("GET", "/datacenters/dc/storagedomains/s4", domain("s4", "iscsi", "<status>inactive</status>"))
    found = [
        (item.id, item.storage_type, item.is_block, item.active) for item in list_storage_domains(engine)
    ]
    assert found == [
        ("s1", "fcp", True, True),
        ("s2", "nfs", False, False),
        ("s3", "nfs", False, True),
        ("s4", "iscsi", True, False),
    ]
