# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploads into existing disks on the local oVirt: whatever happens, the disk stays."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ovirt_imageio.client import ImageioClient

from pitr.errors import DiskRemoved, DiskUnfinished, EngineBusy, EngineError, Interrupted, UsageError
from pitr.lab import Lab
from pitr.lab.lab import LabDisk
from pitr.ovirt.engine import (
    Engine,
    InPlaceUpload,
    Transfer,
    load_config,
    open_uploads,
    start_download,
    start_in_place,
    start_upload,
)
from tests.support.sdk_client import content_of

MIB = 1 << 20


@pytest.fixture
def engine(lab: Lab) -> Iterator[Engine]:
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05, retry_pause_s=0.01) as engine:
        yield engine


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> LabDisk:
    """A disk of a VM that is down, with old data."""
    old = tmp_path / "old"
    old.write_bytes(b"o" * MIB)
    return lab.add_vm("inplace").add_disk("system", 2 * MIB, content=old)


def write(lab: Lab, upload: InPlaceUpload, offset: int, data: bytes) -> None:
    with ImageioClient(upload.transfer_url, cafile=str(lab.cafile)) as client:
        client.write(offset, data)
        client.flush()


def left_open(lab: Lab, engine: Engine, disk: LabDisk) -> str:
    """An upload that an interrupted run has left, with its first KiB written."""
    with pytest.raises(Interrupted), start_in_place(engine, disk.id) as upload:
        write(lab, upload, 0, b"n" * 1024)
        raise Interrupted(signal.SIGTERM)
    assert upload.open_transfer_id is not None
    return upload.open_transfer_id


def test_an_upload_changes_only_what_it_writes(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path
) -> None:
    upload = start_in_place(engine, disk.id)
    with upload:
        assert (upload.unfinished, upload.open_transfer_id) == (True, upload.id)
        with lab.engine.state.lock:
            assert lab.engine.state.transfers[upload.id].timeout_policy == "pause"
        write(lab, upload, 4096, b"n" * 512)
    assert (upload.unfinished, upload.open_transfer_id, disk.status) == (False, None, "ok")
    assert content_of(disk, tmp_path) == b"o" * 4096 + b"n" * 512 + b"o" * (MIB - 4608) + bytes(MIB)


def test_an_error_leaves_the_upload_paused_and_the_next_one_goes_on(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path
) -> None:
    unfinished = pytest.raises(DiskUnfinished, match=r"cannot read; disk .* is unfinished")
    with unfinished as caught, start_in_place(engine, disk.id) as upload:
        write(lab, upload, 0, b"n" * 1024)
        raise UsageError("cannot read", "Do this.")
    error = caught.value
    assert (error.disk_id, error.transfer_id, error.exit_code) == (disk.id, upload.id, 2)
    assert (error.advice, upload.unfinished, disk.status) == ("Do this.", True, "locked")
    assert [(each.id, each.phase) for each in open_uploads(engine, disk.id)] == [(upload.id, "paused_user")]
    with start_in_place(engine, disk.id, left=upload.id) as again:
        assert again.id == upload.id
        write(lab, again, 1024, b"n" * 1024)
    assert (disk.status, disk.legal) == ("ok", True)
    assert content_of(disk, tmp_path) == b"n" * 2048 + b"o" * (MIB - 2048) + bytes(MIB)
    assert "cancelled_user" not in lab.engine.phases_of(upload.id)


def test_an_interrupt_stays_an_interrupt_and_tells_of_the_disk(
    lab: Lab, engine: Engine, disk: LabDisk
) -> None:
    with pytest.raises(Interrupted) as caught, start_in_place(engine, disk.id) as upload:
        raise Interrupted(signal.SIGINT)
    assert caught.value.exit_code == 130
    assert "is unfinished: its upload" in caught.value.__notes__[0]
    with start_in_place(engine, disk.id, left=upload.id):
        pass


@pytest.mark.parametrize("paused_first", [True, False])
def test_a_lost_ticket_is_replaced_by_another_upload(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path, paused_first: bool
) -> None:
    with start_in_place(engine, disk.id) as upload:
        first = upload.id
        write(lab, upload, 0, b"n" * 512)
        lab.host.restart_daemon()
        if paused_first:
            lab.engine.pause_transfers(disk.id)
        upload.revive()
        assert upload.id != first
        write(lab, upload, 512, b"n" * 512)
    assert lab.engine.phases_of(first)[-4:] == [
        "resuming",
        "paused_system",
        "finalizing_success",
        "finished_success",
    ]
    assert content_of(disk, tmp_path)[:1025] == b"n" * 1024 + b"o"


def test_an_upload_that_the_engine_paused_is_resumed_once_and_then_replaced(
    lab: Lab, engine: Engine, disk: LabDisk
) -> None:
    with start_in_place(engine, disk.id) as upload:
        first = upload.id
        for expected in (True, False):
            lab.engine.pause_transfers(disk.id)
            upload.revive()
            assert (upload.id == first) is expected
            write(lab, upload, 0, b"n" * 512)
    assert disk.status == "ok"


def test_a_later_run_goes_on_after_the_ticket_was_lost(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    left = left_open(lab, engine, disk)
    lab.host.restart_daemon()
    with start_in_place(engine, disk.id, left=left) as upload:
        assert upload.id != left
        write(lab, upload, 0, b"n" * 512)
    assert disk.status == "ok"


@pytest.mark.parametrize("keep_s", [900, 0])
def test_a_later_run_opens_another_upload_where_the_old_one_was_finalized(
    lab: Lab, engine: Engine, disk: LabDisk, keep_s: float
) -> None:
    with start_in_place(engine, disk.id) as upload:
        pass
    lab.engine.keep_ended(success_s=keep_s, failure_s=keep_s)
    with start_in_place(engine, disk.id, left=upload.id) as again:
        assert again.id != upload.id


def test_a_host_that_cannot_open_the_disk_leaves_it_as_it_was(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path
) -> None:
    lab.engine.faults.fail("transfer start")
    upload = start_in_place(engine, disk.id)
    with pytest.raises(EngineError, match="paused_system"):
        upload.__enter__()
    assert not upload.unfinished and upload.open_transfer_id is None
    assert disk.status == "ok"
    assert content_of(disk, tmp_path) == b"o" * MIB + bytes(MIB)


def test_an_answer_that_is_lost_does_not_lose_the_upload(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    lab.engine.faults.drop_connection("POST", "/imagetransfers$", handled=True, times=2)
    with start_in_place(engine, disk.id) as upload:
        assert [each.id for each in open_uploads(engine, disk.id)] == [upload.id]
    assert open_uploads(engine, disk.id) == [] and disk.status == "ok"


def test_a_start_that_is_interrupted_leaves_no_open_upload(
    lab: Lab, engine: Engine, disk: LabDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = start_in_place(engine, disk.id)

    def interrupted() -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(upload, "_wait_until_transferring", interrupted)
    with pytest.raises(Interrupted) as caught:
        upload.__enter__()
    assert not hasattr(caught.value, "__notes__")
    assert open_uploads(engine, disk.id) == [] and disk.status == "ok"


def test_data_that_the_engine_refuses_costs_the_disk_and_pitr_says_so(
    lab: Lab, engine: Engine, disk: LabDisk
) -> None:
    lab.engine.faults.fail("upload verification")
    with pytest.raises(DiskRemoved, match="finished_failure"), start_in_place(engine, disk.id) as upload:
        pass
    assert not upload.unfinished
    assert disk.id not in {each.id for each in lab.disks}


def test_a_cancelled_upload_is_told_and_not_replaced(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    with (
        pytest.raises(DiskRemoved, match=r"gone|finished_failure"),
        start_in_place(engine, disk.id) as upload,
    ):
        lab.engine.stop_transfers(disk.id)
        upload.revive()
    assert disk.id not in {each.id for each in lab.disks}


def test_the_cleanup_after_killed_restores_does_not_end_it(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    left = left_open(lab, engine, disk)
    assert Transfer.left_behind(engine, disk.id, "upload") == []
    with start_in_place(engine, disk.id, left=left):
        pass
    with start_upload(engine, disk.id) as upload:
        assert [each.id for each in Transfer.left_behind(engine, disk.id, "upload")] == [upload.id]


def test_other_uploads_and_disks_are_refused(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    other = lab.add_disk("other", MIB)
    with start_upload(engine, disk.id) as strange:
        with pytest.raises(EngineBusy, match="another upload"):
            start_in_place(engine, disk.id).__enter__()
        with pytest.raises(UsageError, match="is not an upload to disk"):
            start_in_place(engine, other.id, left=strange.id).__enter__()
        assert open_uploads(engine, disk.id) == []
        assert lab.engine.phases_of(strange.id) == ["initializing", "transferring"]
    with start_download(engine, disk.id) as download, pytest.raises(UsageError):
        start_in_place(engine, disk.id, left=download.id).__enter__()
    lab.vm("inplace").start()
    with pytest.raises(EngineError, match="which is not down"):
        start_in_place(engine, disk.id).__enter__()
