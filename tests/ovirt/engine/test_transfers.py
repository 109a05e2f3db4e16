# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from pitr.errors import EngineBusy, EngineError
from pitr.ovirt.engine import Engine, Transfer, start_download, start_upload
from tests.support.scripted_engine import DONE, DROP, MISSING, Answer, Script, fault

HOST = "aaaaaaaa-1111-1111-1111-111111111111"
T = "/imagetransfers"
ONE = f"{T}/t1"
URLS = "<transfer_url>https://host:54322/images/x</transfer_url><proxy_url>https://engine:54323/images/x</proxy_url>"
DISK = (
    '<disk id="d1"><name>d1</name><provisioned_size>1024</provisioned_size><status>ok</status>'
    '<storage_domains><storage_domain id="s1"/></storage_domains></disk>'
)


def transfer(phase: str, more: str = "", *, direction: str = "download", transfer_id: str = "t1") -> str:
    return (
        f'<image_transfer id="{transfer_id}"><image id="d1"/><direction>{direction}</direction>'
        f"<phase>{phase}</phase>{more}</image_transfer>"
    )


@pytest.fixture
def good(script: Script) -> Script:
    """An engine on which transfers succeed."""
    script.on("GET", "/disks/d1", DISK)
    script.on("GET", T, "<image_transfers/>")
    script.on("POST", T, Answer(201, transfer("initializing")))
    script.on("GET", ONE, transfer("initializing"), transfer("odd"), transfer("transferring", URLS))

    def end(*phases: str) -> None:
        script.on("GET", ONE, *(transfer(phase) for phase in phases))

    script.on(
        "POST",
        f"{ONE}/finalize",
        Answer(200, DONE.body, then=lambda: end("transferring", "finalizing_success", "finished_success")),
    )
    script.on(
        "POST",
        f"{ONE}/cancel",
        Answer(200, DONE.body, then=lambda: end("cancelled_user", "finalizing_cleanup", "finished_failure")),
    )
    return script


def download(engine: Engine, tmp_path: Path, timeout_s: float = 5.0) -> Transfer:
    return start_download(
        engine, "d1", backup_id="b1", timeout_s=timeout_s, vdsm_id_file=tmp_path / "vdsm.id"
    )


def upload(engine: Engine, tmp_path: Path, timeout_s: float = 5.0) -> Transfer:
    return start_upload(engine, "d1", timeout_s=timeout_s, vdsm_id_file=tmp_path / "vdsm.id")


def again(engine: Engine, script: Script) -> Engine:
    """Let the engine start the transfer again."""
    script.on("GET", ONE, transfer("transferring", URLS))
    return engine


def test_a_download_opens_and_is_finalized(engine: Engine, good: Script, tmp_path: Path) -> None:
    with download(engine, tmp_path) as running:
        assert running.id == "t1"
    assert running.transfer_url == "https://host:54322/images/x", "kept: the engine forgets it"
    assert running.proxy_url == "https://engine:54323/images/x"
    assert good.asked("POST", f"{ONE}/finalize") == 1
    body = next(body for body in good.bodies if "<image_transfer" in body)
    for text in (
        "<direction>download</direction>",
        "<format>raw</format>",
        "<timeout_policy>cancel</timeout_policy>",
        '<backup id="b1"',
        '<disk id="d1"',
    ):
        assert text in body
    assert "<host" not in body


def test_an_upload_is_waited_for_until_its_disk_is_ok(engine: Engine, good: Script, tmp_path: Path) -> None:
    with upload(engine, tmp_path):
        good.on("GET", "/disks/d1", DISK.replace(">ok<", ">locked<"), DISK)
    assert good.asked("GET", "/disks/d1") == 2
    with pytest.raises(EngineError, match=r"disk d1 .* is illegal"), upload(again(engine, good), tmp_path):
        good.on("GET", "/disks/d1", DISK.replace(">ok<", ">illegal<"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("first")])
def test_on_an_error_a_download_is_finalized_and_an_upload_cancelled(
    engine: Engine, good: Script, tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, download(engine, tmp_path):
        raise error
    assert caught.value is error
    assert (good.asked("POST", f"{ONE}/finalize"), good.asked("POST", f"{ONE}/cancel")) == (1, 0)
    good.on("GET", ONE, transfer("transferring", URLS))
    with pytest.raises(type(error)), upload(engine, tmp_path):
        raise error
    assert (good.asked("POST", f"{ONE}/finalize"), good.asked("POST", f"{ONE}/cancel")) == (1, 1)
    assert good.requests[-1] == ("GET", ONE), "the end is confirmed"


def test_a_download_that_cannot_be_finalized_is_cancelled(
    engine: Engine, good: Script, tmp_path: Path
) -> None:
    good.on("POST", f"{ONE}/finalize", fault(403, "[no]"))
    with pytest.raises(ValueError, match=r"first") as caught, download(engine, tmp_path):
        raise ValueError("first")
    assert good.asked("POST", f"{ONE}/cancel") == 1
    assert not hasattr(caught.value, "__notes__")


def test_a_cleanup_that_fails_is_a_note(engine: Engine, good: Script, tmp_path: Path) -> None:
    good.on("POST", f"{ONE}/cancel", DONE)
    with pytest.raises(ValueError, match=r"first") as caught, upload(engine, tmp_path, timeout_s=0.3):
        good.on("GET", ONE, transfer("transferring"))
        raise ValueError("first")
    assert "cannot end the upload" in caught.value.__notes__[0]


@pytest.mark.parametrize("phase", ["cancelled_system", "paused_system", "finished_failure"])
def test_a_transfer_that_breaks_before_data_flows_is_an_error(
    engine: Engine, good: Script, tmp_path: Path, phase: str
) -> None:
    good.on("GET", ONE, transfer("initializing"), transfer(phase))
    with pytest.raises(EngineError, match=rf"did not start .it is {phase}"), download(engine, tmp_path):
        pass
    assert good.asked("POST", f"{ONE}/finalize") == (phase != "finished_failure")


def test_a_phase_that_does_not_come_is_an_error(engine: Engine, good: Script, tmp_path: Path) -> None:
    good.on("GET", ONE, transfer("odd"))
    with (
        pytest.raises(EngineError, match=r"has not started after 0 s .it is unknown"),
        download(engine, tmp_path, timeout_s=0.3),
    ):
        pass
    assert good.asked("POST", f"{ONE}/finalize") == 1


def test_a_transfer_that_fails_at_its_end_is_an_error(engine: Engine, good: Script, tmp_path: Path) -> None:
    def fail() -> None:
        good.on("GET", ONE, transfer("finished_failure"))

    good.on("POST", f"{ONE}/finalize", Answer(200, DONE.body, then=fail))
    with (
        pytest.raises(EngineError, match=r"upload of disk d1 .* failed at its end"),
        upload(engine, tmp_path),
    ):
        pass
    assert good.asked("POST", f"{ONE}/cancel") == 0


def test_a_transfer_that_the_engine_has_forgotten_has_ended(
    engine: Engine, good: Script, tmp_path: Path
) -> None:
    good.on("POST", f"{ONE}/finalize", DONE)
    for start in (download, upload):
        good.on("GET", ONE, transfer("transferring", URLS))
        with start(engine, tmp_path):
            good.on("GET", ONE, MISSING)
    good.on("GET", ONE, transfer("transferring", URLS))
    good.on("POST", f"{ONE}/finalize", DONE)
    with pytest.raises(EngineError, match=r"it is gone"), upload(engine, tmp_path):
        good.on("GET", ONE, MISSING)
        good.on("GET", "/disks/d1", MISSING)


def test_clients_that_are_still_closing_are_waited_for(engine: Engine, good: Script, tmp_path: Path) -> None:
    refused = fault(409, "[ticket has ongoing operations]")
    good.on("POST", f"{ONE}/cancel", refused, refused, DONE)
    with pytest.raises(ValueError), upload(engine, tmp_path):
        good.on("GET", ONE, *[transfer("transferring", URLS)] * 3, transfer("finished_failure"))
        raise ValueError
    assert good.asked("POST", f"{ONE}/cancel") == 3


def test_a_locked_disk_is_busy(engine: Engine, good: Script, tmp_path: Path) -> None:
    good.on("POST", T, fault(409, "[Cannot transfer Virtual Disk: The following disks are locked: d1]"))
    with pytest.raises(EngineBusy, match=r"locked"), download(engine, tmp_path):
        pass


def test_a_transfer_whose_answer_is_lost_is_found_and_ended(
    engine: Engine, good: Script, tmp_path: Path
) -> None:
    foreign = transfer("transferring", transfer_id="t0") + transfer("transferring", transfer_id="t9").replace(
        "d1", "d2"
    )

    def arrived() -> None:
        good.on("GET", T, f"<image_transfers>{foreign}{transfer('initializing')}</image_transfers>")

    good.on("GET", T, f"<image_transfers>{foreign}</image_transfers>")
    good.on("POST", T, Answer(503, "<html>", "text/html", then=arrived))
    with pytest.raises(EngineError, match=r"starting the download of disk d1: .* answered 503"):
        download(engine, tmp_path).__enter__()
    assert good.asked("POST", ".*/finalize") == good.asked("POST", f"{ONE}/finalize") == 1


def test_a_request_that_was_dropped_leaves_nothing_to_end(
    engine: Engine, good: Script, tmp_path: Path
) -> None:
    good.on("POST", T, DROP)
    with pytest.raises(EngineError, match=r"no answer from the engine"), upload(engine, tmp_path):
        pass
    assert good.asked("POST", ".*/cancel") == 0


@pytest.mark.parametrize(("status", "center"), [("up", "dc"), ("down", "dc"), ("up", "other")])
def test_the_local_host_is_requested_if_it_can_serve_the_disk(
    engine: Engine, good: Script, tmp_path: Path, status: str, center: str
) -> None:
    (tmp_path / "vdsm.id").write_text(f"{HOST}\n")
    good.on("GET", f"/hosts/{HOST}", f'<host id="{HOST}"><status>{status}</status><cluster id="c1"/></host>')
    good.on("GET", "/clusters/c1", f'<cluster id="c1"><data_center id="{center}"/></cluster>')
    domain = (
        '<storage_domain id="s1"><name>s1</name><status>active</status><data_centers><data_center id="dc"/>'
    )
    good.on(
        "GET",
        "/storagedomains",
        f"<storage_domains>{domain}</data_centers></storage_domain></storage_domains>",
    )
    with download(engine, tmp_path):
        pass
    assert any(f'<host id="{HOST}"' in body for body in good.bodies) == ((status, center) == ("up", "dc"))


@pytest.mark.parametrize("text", ["../vms", "", HOST])
def test_a_machine_that_is_not_a_host_requests_none(
    engine: Engine, good: Script, tmp_path: Path, text: str
) -> None:
    (tmp_path / "vdsm.id").write_text(text)
    with download(engine, tmp_path):
        pass
    assert not any("<host" in body for body in good.bodies)
    if text != HOST:
        # Only a host must know where the disk is.
        assert good.asked("GET", "/disks/.*") == 0


def test_a_transfer_has_no_url_before_it_is_entered(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has not started"):
        download(engine, tmp_path).transfer_url  # noqa: B018
