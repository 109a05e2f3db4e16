# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole flows on the local oVirt: a simulated engine, a real imageio daemon and a real qemu."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ovirt_imageio.client import ImageioClient

from pitr.errors import (
    CheckpointGone,
    EngineBusy,
    EngineError,
    Interrupted,
    LoginError,
    NoSuchDisk,
    NoSuchVM,
)
from pitr.lab import Lab
from pitr.lab.lab import LabDisk, LabVM
from pitr.ovirt.engine import (
    BackupRequest,
    Engine,
    EngineSettings,
    NewDisk,
    RunningBackup,
    Transfer,
    attach_disk,
    checkpoint_disk_ids,
    create_disk,
    delete_checkpoint,
    delete_disk,
    end_leftovers,
    find_vm,
    get_configuration,
    get_disk,
    list_checkpoints,
    list_storage_domains,
    list_vms,
    load_config,
    start_backup,
    start_download,
    start_upload,
    vm_disks,
)

MiB = 1 << 20


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with Lab(phase_lag_s=0.02) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The module's lab, checked to be clean after each test."""
    shared_lab.engine.forget_requests()
    yield shared_lab
    shared_lab.engine.faults.clear()
    shared_lab.clock.resume()
    assert shared_lab.open_transfers() == shared_lab.open_backups() == shared_lab.locked_disks() == []
    assert shared_lab.engine.failures == []


@pytest.fixture
def engine(lab: Lab) -> Iterator[Engine]:
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05, retry_pause_s=0.01) as engine:
        yield engine


@pytest.fixture
def web(lab: Lab) -> LabVM:
    """A running VM with a qcow2 disk that contains data, and a raw disk."""
    vm = lab.add_vm(f"web-{uuid.uuid4().hex[:8]}")
    system = vm.add_disk("system", 8 * MiB, bootable=True)
    vm.add_disk("data", 4 * MiB, format="raw")
    vm.start()
    with system.guest() as guest:
        guest.write(MiB, b"A" * 65536)
    return vm


def begin(
    engine: Engine, vm: LabVM, *disks: LabDisk, since: str | None = None, busy_wait_s: float = 0.0
) -> RunningBackup:
    return start_backup(
        engine,
        find_vm(engine, vm.id),
        BackupRequest(
            tuple(disk.id for disk in disks or vm.disks),
            str(uuid.uuid4()),
            from_checkpoint_id=since,
            description="of a test",
        ),
        busy_wait_s=busy_wait_s,
        timeout_s=20,
    )


def client_of(lab: Lab, transfer: Transfer) -> ImageioClient:
    return ImageioClient(transfer.transfer_url, cafile=str(lab.cafile))


def test_a_full_and_an_incremental_backup_of_a_running_vm(lab: Lab, engine: Engine, web: LabVM) -> None:
    system, data = web.disks
    with begin(engine, web) as full:
        first = full.started
        assert first.mode == "live"
        assert [disk.incremental for disk in first.disks] == [False, False]
        with system.guest() as guest:
            guest.write(MiB, b"B" * 65536)
        with (
            start_download(engine, system.id, backup_id=full.id) as transfer,
            client_of(lab, transfer) as client,
        ):
            buffer = bytearray(65536)
            client.read(MiB, buffer)
            assert bytes(buffer) == b"A" * 65536
        full.check_still_ready()
    assert full.succeeded is True
    assert first.checkpoint_id is not None
    with begin(engine, web, since=first.checkpoint_id) as incremental:
        second = incremental.started
        assert {disk.disk_id: disk.incremental for disk in second.disks} == {system.id: True, data.id: False}
        with start_download(engine, system.id, backup_id=incremental.id) as transfer:
            with client_of(lab, transfer) as client:
                dirty = [(e.start, e.length) for e in client.extents("dirty") if e.dirty]
            assert dirty == [(MiB, 65536)]
    assert second.lo <= second.hi and first.hi <= second.lo
    checkpoints = list_checkpoints(engine, web.id)
    assert [item.id for item in checkpoints] == [first.checkpoint_id, second.checkpoint_id]
    assert checkpoints[1].parent_id == checkpoints[0].id and all(item.valid for item in checkpoints)
    assert second.checkpoint_date == checkpoints[1].created
    assert checkpoint_disk_ids(engine, web.id, checkpoints[1].id) == {system.id}


def test_the_engines_clock_dates_the_point(lab: Lab, engine: Engine, web: LabVM) -> None:
    lab.clock.set("2020-06-30T22:00:00+02:00", frozen=True)
    with begin(engine, web) as backup:
        assert backup.started.lo == backup.started.hi == datetime(2020, 6, 30, 20, tzinfo=UTC)


def test_a_vm_that_is_down_is_backed_up_cold(lab: Lab, engine: Engine, web: LabVM) -> None:
    web.stop()
    with begin(engine, web) as backup:
        assert backup.started.mode == "cold"
        assert backup.started.checkpoint_id == web.checkpoints[-1]


def test_a_new_cluster_is_backed_up_from_a_snapshot(lab: Lab, engine: Engine) -> None:
    vm = lab.add_vm(f"new-{uuid.uuid4().hex[:8]}", compat="4.7")
    vm.add_disk("system", 4 * MiB)
    vm.start()
    with begin(engine, vm) as backup:
        assert backup.started.mode == "hybrid"
        assert backup.started.hi == backup.started.checkpoint_date
        assert backup.started.lo == backup.started.creation_date
        assert len(backup.started.disks) == 1
    assert backup.succeeded


def test_raw_disks_alone_get_no_checkpoint(engine: Engine, web: LabVM) -> None:
    with begin(engine, web, web.disks[1]) as backup:
        assert backup.started.checkpoint_id is None


def test_a_second_backup_is_busy_or_waits(engine: Engine, web: LabVM) -> None:
    with begin(engine, web), pytest.raises(EngineBusy, match="during a backup operation"):
        begin(engine, web).__enter__()
    first = begin(engine, web)
    first.__enter__()
    second = begin(engine, web, busy_wait_s=20)
    post = second._post

    def post_then_end_the_first() -> None:
        try:
            post()
        finally:
            first.finalize()

    second._post = post_then_end_the_first  # type: ignore[method-assign]
    with second:
        assert first.succeeded
    assert second.succeeded


def test_a_missing_or_invalid_checkpoint_needs_a_full_backup(lab: Lab, engine: Engine, web: LabVM) -> None:
    with begin(engine, web) as backup:
        checkpoint_id = backup.started.checkpoint_id
    assert checkpoint_id is not None
    with pytest.raises(CheckpointGone, match="doesn't exist"):
        begin(engine, web, since=str(uuid.uuid4())).__enter__()
    lab.engine.invalidate_checkpoint(checkpoint_id)
    assert not list_checkpoints(engine, web.id)[0].valid
    with pytest.raises(CheckpointGone, match="is invalid"):
        begin(engine, web, since=checkpoint_id).__enter__()


def test_after_a_lost_chain_a_full_waits_until_the_engine_is_free(
    lab: Lab, engine: Engine, web: LabVM
) -> None:
    with begin(engine, web) as backup:
        checkpoint_id = backup.started.checkpoint_id
    lab.engine.lose_checkpoints(web.id, at_next_backup=True)
    with pytest.raises(CheckpointGone):
        begin(engine, web, since=checkpoint_id).__enter__()
    with begin(engine, web, busy_wait_s=20) as backup:
        assert backup.started.checkpoint_id is not None
    assert backup.succeeded


def test_a_backup_that_cannot_start_is_an_error_or_a_lost_checkpoint(
    lab: Lab, engine: Engine, web: LabVM
) -> None:
    lab.engine.faults.fail("backup start")
    with pytest.raises(EngineError, match=r"did not become ready .it is failed"):
        begin(engine, web).__enter__()


def test_checkpoints_are_deleted_but_not_while_a_backup_runs(engine: Engine, web: LabVM) -> None:
    for _ in range(2):
        with begin(engine, web):
            pass
    first, second = list_checkpoints(engine, web.id)
    with begin(engine, web), pytest.raises(EngineBusy):
        delete_checkpoint(engine, web.id, first.id)
    delete_checkpoint(engine, web.id, first.id)
    delete_checkpoint(engine, web.id, first.id)
    left = list_checkpoints(engine, web.id)
    assert left[0].id == second.id and left[0].parent_id is None


@pytest.mark.parametrize("handled", [True, False])
def test_lost_answers_leave_one_backup(lab: Lab, engine: Engine, web: LabVM, handled: bool) -> None:
    lab.engine.faults.drop_connection("POST", "/backups$", handled=handled)
    with begin(engine, web) as backup:
        assert lab.open_backups() == [backup.id]
    assert backup.succeeded


def test_a_backup_succeeds_despite_many_transient_faults(lab: Lab, engine: Engine, web: LabVM) -> None:
    for path in (r"/backups/[^/]+$", r"/backups/[^/]+/disks$", r"/imagetransfers/[^/]+$", "/checkpoints/"):
        lab.engine.faults.next("GET", path, status=500, times=2)
        lab.engine.faults.drop_connection("GET", path, times=2)
    lab.engine.faults.next("POST", "/finalize$", status=503, body="<html>", content_type="text/html")
    with begin(engine, web) as backup:
        lab.engine.faults.expire_tokens()
        with start_download(engine, web.disks[0].id, backup_id=backup.id):
            lab.engine.faults.expire_tokens()
        lab.engine.faults.drop_connection("POST", "/finalize$", handled=True)
    assert backup.succeeded


def test_a_lost_answer_to_a_transfer_leaves_none_open(lab: Lab, engine: Engine, web: LabVM) -> None:
    lab.engine.faults.next(
        "POST", "/imagetransfers$", status=502, body="<html>", content_type="text/html", handled=True
    )
    with (
        pytest.raises(EngineError, match="answered 502"),
        begin(engine, web) as backup,
        start_download(engine, web.disks[0].id, backup_id=backup.id),
    ):
        pass
    assert lab.open_transfers() == lab.open_backups() == []


def test_the_leftovers_of_a_killed_run_are_ended_by_their_id(lab: Lab, engine: Engine, web: LabVM) -> None:
    killed = begin(engine, web)
    killed.__enter__()
    start_download(engine, web.disks[0].id, backup_id=killed.id).__enter__()
    vm = find_vm(engine, web.id)
    assert end_leftovers(engine, vm, killed.id, timeout_s=20)
    assert lab.open_transfers() == lab.open_backups() == []
    assert not end_leftovers(engine, vm, killed.id, timeout_s=20)
    assert not end_leftovers(engine, vm, str(uuid.uuid4()), timeout_s=20)


def test_an_upload_writes_a_new_disk_that_a_vm_can_use(lab: Lab, engine: Engine, tmp_path: Path) -> None:
    (domain,) = [item for item in list_storage_domains(engine) if item.name == lab.storage_domain]
    assert domain.active and domain.type == "data" and not domain.is_block
    disk = create_disk(
        engine,
        NewDisk(
            name="restored",
            size=4 * MiB,
            format="cow",
            sparse=True,
            storage_domain_id=domain.id,
            backup_enabled=True,
        ),
        timeout_s=20,
    )
    assert (disk.size, disk.format, disk.backup_enabled, disk.status) == (4 * MiB, "cow", True, "ok")
    with start_upload(engine, disk.id, timeout_s=20) as transfer:
        assert transfer.proxy_url is not None
        with client_of(lab, transfer) as client:
            client.write(65536, b"R" * 4096)
            client.flush()
    assert get_disk(engine, disk.id).status == "ok"
    lab.disk(disk.id).copy_content(tmp_path / "content")
    assert (tmp_path / "content").read_bytes()[65536:69632] == b"R" * 4096
    vm = lab.add_vm(f"target-{uuid.uuid4().hex[:8]}")
    attach_disk(engine, vm.id, disk.id, interface="virtio", bootable=True, active=True)
    (attached,) = vm_disks(engine, vm.id)
    assert (attached.id, attached.interface, attached.bootable, attached.active) == (
        disk.id,
        "virtio",
        True,
        True,
    )
    other = new_disk(lab, engine, format="raw")
    delete_disk(engine, other, 20)
    delete_disk(engine, other, 20)
    with pytest.raises(NoSuchDisk):
        get_disk(engine, other)


def new_disk(lab: Lab, engine: Engine, format: str = "cow") -> str:
    domain = next(item for item in list_storage_domains(engine) if item.name == lab.storage_domain)
    return create_disk(
        engine,
        NewDisk(
            name="partial",
            size=MiB,
            format=format,
            sparse=True,
            storage_domain_id=domain.id,
            backup_enabled=False,
        ),
        timeout_s=20,
    ).id


def test_an_upload_that_fails_is_cancelled_and_its_disk_goes(lab: Lab, engine: Engine) -> None:
    disk_id = new_disk(lab, engine)
    with pytest.raises(KeyboardInterrupt), start_upload(engine, disk_id, timeout_s=20) as transfer:
        with client_of(lab, transfer) as client:
            client.write(0, b"x" * 4096)
        raise KeyboardInterrupt
    delete_disk(engine, disk_id, 20)
    with pytest.raises(NoSuchDisk):
        get_disk(engine, disk_id)


def test_an_upload_that_does_not_verify_is_an_error(lab: Lab, engine: Engine) -> None:
    disk_id = new_disk(lab, engine)
    lab.engine.faults.fail("upload verification")
    with pytest.raises(EngineError, match=r"failed at its end .it is finished_failure"):
        start = start_upload(engine, disk_id, timeout_s=20)
        with start:
            pass
    delete_disk(engine, disk_id, 20)


def test_a_disk_that_cannot_be_created_leaves_nothing(lab: Lab, engine: Engine) -> None:
    before = {disk.id for disk in lab.disks}
    lab.engine.faults.fail("disk creation")
    with pytest.raises(EngineError):
        new_disk(lab, engine)
    lab.engine.faults.drop_connection("POST", "/disks$", handled=True)
    disk_id = new_disk(lab, engine)
    assert {disk.id for disk in lab.disks} - before == {disk_id}


def test_a_disk_that_the_engine_refuses_is_reported(lab: Lab, engine: Engine) -> None:
    with pytest.raises(EngineError, match="answered 4"):
        create_disk(
            engine,
            NewDisk(
                name="impossible",
                size=MiB,
                format="raw",
                sparse=False,
                storage_domain_id=list_storage_domains(engine)[0].id,
                backup_enabled=True,
            ),
            timeout_s=20,
        )


def test_vms_are_found_with_their_configuration(lab: Lab, engine: Engine, web: LabVM) -> None:
    found = find_vm(engine, web.name)
    assert (found.id, found.running, found.compatibility) == (web.id, True, "4.6")
    assert found == find_vm(engine, web.id)
    assert found in list_vms(engine)
    lab.engine.faults.fail("configuration", times=2)
    document = get_configuration(engine, web.id)
    assert document is not None and web.disks[0].id in document
    with pytest.raises(NoSuchVM, match=f"{web.name}x"):
        find_vm(engine, f"{web.name}x")
    disks = vm_disks(engine, web.id)
    assert [(disk.name, disk.format, disk.bootable) for disk in disks] == [
        ("system", "cow", True),
        ("data", "raw", False),
    ]


def test_a_name_with_odd_characters_is_found(lab: Lab, engine: Engine) -> None:
    vm = lab.add_vm('odd "name" * größe')
    assert find_vm(engine, vm.name).id == vm.id


def test_a_wrong_password_or_ca_is_one_line(lab: Lab, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    with pytest.raises(LoginError, match="refuses the login"):
        Engine(load_config(EngineSettings(password_file=wrong), environ=lab.environment())).__enter__()
    environment = lab.environment()
    del environment["PITR_CAFILE"]
    with pytest.raises(EngineError, match="is not trusted"):
        Engine(load_config(environ=environment)).__enter__()
    with Engine(load_config(EngineSettings(insecure=True), environ=environment)) as engine:
        assert engine.version


def test_points_follow_each_other_by_the_engines_clock(lab: Lab, engine: Engine, web: LabVM) -> None:
    lab.clock.set("2020-06-29T22:00:00+02:00")
    times = []
    for _ in range(2):
        with begin(engine, web) as backup:
            times.append(backup.started.hi)
        lab.clock.advance(12 * 3600)
    assert timedelta(hours=12) <= times[1] - times[0] < timedelta(hours=13)


@pytest.mark.parametrize(
    ("what", "method", "path"),
    [
        ("starting a backup", "POST", "/backups$"),
        ("reading backup", "GET", "/backups/"),
        ("starting the download", "POST", "/imagetransfers$"),
        ("reading transfer", "GET", "/imagetransfers/"),
        ("finalizing backup", "POST", "/backups/.*/finalize$"),
        ("creating disk", "POST", "/disks$"),
    ],
)
def test_a_signal_while_the_answer_is_on_its_way_leaves_nothing_open(
    lab: Lab, engine: Engine, web: LabVM, what: str, method: str, path: str
) -> None:
    lab.engine.faults.stall(0.3, method, path)
    before = {disk.id for disk in lab.disks}
    with signal_at(engine, what, 0.1), begin(engine, web) as backup:
        with start_download(engine, web.disks[0].id, backup_id=backup.id):
            pass
        new_disk(lab, engine)
    assert any(request.method == method and re.search(path, request.path) for request in lab.engine.requests)
    assert lab.open_transfers() == lab.open_backups() == []
    assert {disk.id for disk in lab.disks} == before or what == "finalizing backup"


@contextmanager
def signal_at(engine: Engine, what: str, after_s: float) -> Iterator[None]:
    """Expect Interrupted: a signal, whose handler raises it, `after_s` after the call named `what` begins."""

    def handler(signum: int, _: FrameType | None) -> None:
        raise Interrupted(signum)

    def call(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith(what) and not armed:
            armed.append(name)
            signal.setitimer(signal.ITIMER_REAL, after_s)
        return original(name, *arguments, **more)

    armed: list[str] = []
    original = engine.call
    before = signal.signal(signal.SIGALRM, handler)
    engine.call = call  # type: ignore[assignment, method-assign]
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert armed


def test_the_error_of_a_process_shows_no_secret(lab: Lab, tmp_path: Path) -> None:
    """Check everything that a debug log and a traceback show."""
    program = textwrap.dedent(
        """
        import logging, sys
        logging.basicConfig(level=logging.DEBUG)
        from pitr.ovirt.engine import Engine, find_vm, load_config
        with Engine(load_config()) as engine:
            find_vm(engine, "no such")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=lab.environment(), capture_output=True, text=True, check=False
    )
    assert "NoSuchVM" in done.stderr
    assert lab.password not in done.stderr
