# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that refuses, fails or is not there: one clear line, the right exit code, and nothing left open."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.backup import one_vm as backup_job
from pitr.lab import Lab, LabVM
from pitr.ovirt.engine import BackupRequest, Engine, find_vm, load_config, start_backup
from tests.support.lab import MiB, assert_restores, make_vm, nothing_open, oracle_of
from tests.support.pitr import Pitr, Result


@pytest.fixture
def vm(lab: Lab, pitr: Pitr) -> LabVM:
    """A running VM with one point."""
    vm = make_vm(lab, 2 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(4096, b"H" * 100000)
    pitr.backup(vm.name)
    return vm


@contextmanager
def nothing_changed(lab: Lab, pitr: Pitr) -> Iterator[None]:
    """The repository, the disks and what is open on the engine are as before."""
    points, files = pitr.json("list"), _files(pitr.repository)
    disks = {disk.id for disk in lab.disks}
    yield
    assert nothing_open(lab)
    assert {disk.id for disk in lab.disks} == disks
    assert pitr.json("list") == points
    assert _files(pitr.repository) == files
    assert pitr.json("verify")["ok"]


def _files(repository: Path) -> set[Path]:
    """What the repository holds, without the catalog, locks, and the notes of checkpoints to be removed."""
    return {
        path
        for path in repository.rglob("*")
        if path.is_file()
        and path.relative_to(repository).parts[0] in ("repository.json", "blobs", "indexes", "backups")
    }


def assert_one_line(result: Result) -> None:
    complaint = result.complaint
    assert len(complaint) < 600
    # Besides notices of what is going on there is only this line.
    assert all(line.startswith("pitr: ") for line in result.stderr.splitlines()), result.stderr


def test_another_backup_of_the_vm_is_running(
    lab: Lab, pitr: Pitr, vm: LabVM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_job, "_BUSY_S", 0.2)
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05) as engine:
        found = find_vm(engine, vm.id)
        disks = tuple(disk.id for disk in vm.disks)
        with start_backup(engine, found, BackupRequest(disks, str(uuid.uuid4()))) as other:
            refused = pitr("backup", vm.name, "--busy-wait", "0", code=6)
            assert_one_line(refused)
            assert "during a backup operation" in refused.complaint
            # Not ours: it goes on.
            assert lab.open_backups() == [other.id]
    pitr.backup(vm.name)


def test_a_vm_that_is_busy_for_a_moment_is_waited_for(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    fault = (
        "<fault><detail>[Cannot backup VM. The VM is during a backup operation.]</detail>"
        "<reason>Operation Failed</reason></fault>"
    )
    lab.engine.faults.next("POST", rf"/vms/{vm.id}/backups$", status=409, body=fault, times=2)
    assert pitr.backup(vm.name)["kind"] == "incremental"


@pytest.mark.parametrize(
    "name", ["no-such-vm", "11111111-2222-3333-4444-555555555555", "no/../such vm*", "ü"]
)
def test_a_vm_that_does_not_exist(lab: Lab, pitr: Pitr, vm: LabVM, name: str) -> None:
    with nothing_changed(lab, pitr):
        assert_one_line(pitr("backup", name, code=4))
        assert pitr("backup", name, "-o", "json", code=4).error["type"] == "NoSuchVM"


def test_a_disk_that_the_vm_does_not_have(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    with nothing_changed(lab, pitr):
        refused = pitr("backup", vm.name, "--disk", "d7", code=4)
        assert_one_line(refused)
        assert vm.disks[0].id in refused.complaint


def _refused_connection(lab: Lab, tmp_path: Path) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"PITR_ENGINE_URL": f"https://localhost:{port}"}


def _unknown_host(lab: Lab, tmp_path: Path) -> dict[str, str]:
    return {"PITR_ENGINE_URL": "https://engine.invalid"}


def _wrong_ca(lab: Lab, tmp_path: Path) -> dict[str, str]:
    from pitr.lab.host.pki import make_pki

    return {"PITR_CAFILE": str(make_pki(tmp_path / "other pki").cafile)}


def _ca_that_is_none(lab: Lab, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "ca.pem").write_text("no certificate")
    return {"PITR_CAFILE": str(tmp_path / "ca.pem")}


def _wrong_password(lab: Lab, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "password").write_text("Secret-Wrong-Password\n")
    return {"PITR_PASSWORD_FILE": str(tmp_path / "password")}


def _wrong_user(lab: Lab, tmp_path: Path) -> dict[str, str]:
    return {"PITR_USERNAME": "nobody@internal"}


def _no_engine(lab: Lab, tmp_path: Path) -> dict[str, str]:
    return {"PITR_ENGINE_URL": lab.host.images_url.rpartition("/images")[0]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_refused_connection, "no answer from the engine"),
        (_unknown_host, "engine.invalid"),
        (_wrong_ca, "not trusted"),
        (_ca_that_is_none, "CA file"),
        (_wrong_password, "refuses the login"),
        (_wrong_user, "nobody@internal"),
        (_no_engine, "engine"),
    ],
)
def test_an_engine_that_cannot_be_talked_to(
    lab: Lab,
    pitr: Pitr,
    vm: LabVM,
    tmp_path: Path,
    wrong: Callable[[Lab, Path], dict[str, str]],
    words: str,
) -> None:
    lost = pitr.with_environment(**wrong(lab, tmp_path))
    with nothing_changed(lab, pitr):
        for command in (("backup", vm.name), ("restore", "--at", "now")):
            failed = lost(*command, code=6)
            assert_one_line(failed)
            assert words in failed.complaint
            assert "Secret" not in failed.stderr and lab.password not in failed.stderr
        assert lost("backup", "-o", "json", code=6).error["message"]
    # What needs no engine works.
    lost("list")
    lost("restore", "--at", "now", "--to-file", tmp_path / "disk.raw")


def test_a_login_that_expires_in_the_middle_is_renewed(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    with oracle_of(lab, tmp_path, then=lab.engine.faults.expire_tokens) as oracle:
        point = pitr.backup(vm.name)
    assert 401 in {request.status for request in lab.engine.requests}
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_login_that_is_not_accepted_any_more(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    """The password is changed during the backup: pitr can end nothing, the next run does."""
    tokens = lab.engine.tokens
    right = tokens.password

    def lock_out() -> None:
        tokens.password = "another"
        lab.engine.faults.expire_tokens()

    with oracle_of(lab, pitr.repository.parent / "oracle", then=lock_out):
        failed = pitr("backup", vm.name, code=6)
    assert "login" in failed.stderr
    assert lab.password not in failed.stderr
    tokens.password = right
    said = pitr("backup", vm.name)
    assert "an earlier run had left open" in said.stderr
    assert nothing_open(lab)
    assert pitr.json("verify")["checked"]["points"] == 2


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", r"/api/vms$"),
        ("POST", r"/backups$"),
        ("GET", r"/backups/[^/]+$"),
        ("GET", r"/backups/[^/]+/disks$"),
        ("POST", r"/imagetransfers$"),
        ("GET", r"/imagetransfers/[^/]+$"),
        ("GET", r"/diskattachments$"),
        ("GET", r"/checkpoints$"),
    ],
)
def test_any_request_of_a_backup_refused(
    lab: Lab,
    pitr: Pitr,
    vm: LabVM,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    status: int,
) -> None:
    """Refused for good: pitr fails, and what it had begun is ended."""
    _impatient(monkeypatch)
    times = 6 if status >= 500 else 1
    fault = "<fault><detail>[for a test]</detail><reason>Operation Failed</reason></fault>"
    with nothing_changed(lab, pitr):
        lab.engine.faults.next(method, path, status=status, body=fault, times=times)
        # A full asks for no checkpoints.
        full = [] if path == r"/checkpoints$" else ["--full"]
        failed = pitr("backup", vm.name, *full, code=6)
        assert_one_line(failed)
        lab.engine.faults.clear()
    pitr.backup(vm.name)


def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries."""
    import pitr.ovirt.engine.connection
    from pitr.system import retry

    real = retry.retrying

    def retrying(operation: Any, **options: Any) -> Any:
        return real(operation, **{**options, "first_pause_s": 0.001})

    monkeypatch.setattr(pitr.ovirt.engine.connection, "retrying", retrying)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", r"/backups$"),
        ("GET", r"/backups/[^/]+$"),
        ("POST", r"/imagetransfers$"),
        ("POST", r"/finalize$"),
    ],
)
@pytest.mark.parametrize("handled", [False, True])
def test_a_connection_that_is_lost_once(
    lab: Lab, pitr: Pitr, vm: LabVM, method: str, path: str, handled: bool
) -> None:
    """pitr goes on, or fails with nothing left open; the engine may have done what it was asked, or not."""
    lab.engine.faults.drop_connection(method, path, handled=handled)
    result = pitr.run("backup", vm.name)
    assert result.code in (0, 6), result
    assert nothing_open(lab)
    assert pitr.json("verify")["ok"]
    if result.code == 6:
        assert_one_line(result)
        pitr.backup(vm.name)


def test_what_a_backup_on_the_engine_refuses(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    lab.engine.set_vm(vm.id, previewing=True)
    with nothing_changed(lab, pitr):
        refused = pitr("backup", vm.name, code=6)
        assert_one_line(refused)
        assert "previewing" in refused.complaint
    lab.engine.set_vm(vm.id, previewing=False)


def test_a_backup_that_fails_to_start_on_the_host(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    with nothing_changed(lab, pitr):
        lab.engine.faults.fail("backup start")
        assert_one_line(pitr("backup", vm.name, "--full", code=6))


def test_consistency_that_is_required_and_not_to_be_had(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    lab.engine.set_vm(vm.id, freeze_fails=True)
    with nothing_changed(lab, pitr):
        assert_one_line(pitr("backup", vm.name, "--full", "--require-consistency", code=6))
    assert pitr.backup(vm.name)["consistency"] == "unknown"
    lab.engine.set_vm(vm.id, freeze_fails=False)


@pytest.mark.parametrize("happening", ["upload verification", "disk creation"])
def test_a_restore_that_fails_on_the_engine_leaves_no_disk(
    lab: Lab, pitr: Pitr, vm: LabVM, happening: Any
) -> None:
    with nothing_changed(lab, pitr):
        lab.engine.faults.fail(happening)
        assert_one_line(pitr("restore", "--at", "now", code=6))
    pitr("restore", "--at", "now")


def test_a_restore_whose_vm_to_attach_to_is_not_there_makes_no_disk(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    with nothing_changed(lab, pitr):
        assert_one_line(pitr("restore", "--at", "now", "--attach-to", "nobody", code=4))
        assert_one_line(pitr("restore", "--at", "now", "--storage-domain", "nowhere", code=2))


def test_one_of_two_vms_fails_and_the_other_is_backed_up(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    other = make_vm(lab, MiB)
    document = pitr.json("backup", vm.name, other.name, "no-such-vm", code=1)
    assert [point["vm"]["name"] for point in document["backups"]] == [vm.name, other.name]
    (failed,) = document["failed"]
    assert failed["vm"] == "no-such-vm" and failed["error"]["type"] == "NoSuchVM"


def test_another_pitr_backs_the_vm_up(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    from pitr.model import VMName
    from pitr.repository import Repository

    with Repository.open(pitr.repository) as repository, repository.lock_vm(VMName(vm.id, vm.name)):
        busy = pitr("backup", vm.name, code=5)
        assert_one_line(busy)
        pitr("list")
    pitr.backup(vm.name)
