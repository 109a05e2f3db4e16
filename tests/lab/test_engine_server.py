# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's server: login, injected faults, the clock, and a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import ovirtsdk4
import pytest

from pitr.lab import Lab
from tests.support.lab_host import children_of
from tests.support.sdk_client import READY, Client, refused, wait_for

MIB = 1 << 20


def test_a_wrong_password_is_denied(new_lab: Lab) -> None:
    wrong = Client(new_lab, password="wrong")
    with pytest.raises(ovirtsdk4.AuthError, match="access_denied"):
        wrong.system.get()


def test_a_client_that_does_not_trust_the_ca_gets_no_answer(new_lab: Lab) -> None:
    stranger = Client(new_lab, ca_file=None)
    with pytest.raises(ovirtsdk4.Error, match="certificate"):
        stranger.system.get()
    with Client(new_lab, ca_file=None, insecure=True) as careless:
        assert careless.system.get().product_info.version.major == 4


def test_an_expired_token_is_renewed_by_the_sdk_in_the_middle(new_lab: Lab, client: Client) -> None:
    client.system.get()
    new_lab.engine.faults.expire_tokens()
    client.system.vms_service().list()
    statuses = [request.status for request in new_lab.engine.requests]
    assert statuses == [200, 200, 401, 200, 200]


def test_a_connection_with_only_a_token_cannot_renew_it(new_lab: Lab, client: Client) -> None:
    token = client.connection.authenticate()
    other = Client(new_lab, username=None, password=None, token=token)
    other.system.get()
    new_lab.engine.faults.expire_tokens()
    with pytest.raises(ovirtsdk4.AuthError):
        other.system.get()


def test_logging_out_ends_the_token(new_lab: Lab) -> None:
    with Client(new_lab) as client:
        client.system.get()
        assert new_lab.engine.tokens.count == 1
    assert new_lab.engine.tokens.count == 0


def test_an_injected_answer_comes_once(new_lab: Lab, client: Client) -> None:
    fault = "<fault><reason>Operation Failed</reason><detail>[injected]</detail></fault>"
    new_lab.engine.faults.next("GET", r"/vms$", status=503, body=fault)
    error = refused(lambda: client.system.vms_service().list(search="name=x"))
    assert (error.code, error.fault.detail) == (503, "[injected]")
    assert list(client.system.vms_service().list()) == []
    assert ("GET", "/ovirt-engine/api/vms?search=name%3Dx", 503) in new_lab.engine.requests


def test_the_engine_can_execute_a_request_although_its_answer_is_lost(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    chosen = "11111111-2222-4333-8444-555555555555"
    client.system.get()
    # curl itself retries a reset keep-alive connection, so lose both answers.
    new_lab.engine.faults.drop_connection("POST", r"/backups$", handled=True)
    new_lab.engine.faults.drop_connection("POST", r"/backups$")
    with pytest.raises(ovirtsdk4.Error):
        client.post_backup(vm, [disk], backup_id=chosen)
    new_lab.engine.faults.clear()
    client.await_backup(vm, chosen, READY)
    client.finalize_backup(vm, chosen)


def test_a_stalled_request_is_answered_later(new_lab: Lab) -> None:
    with Client(new_lab, timeout=2) as client:
        client.system.get()
        new_lab.engine.faults.stall(600, path="/api/vms$")
        with pytest.raises(ovirtsdk4.Error):
            client.system.vms_service().list()
        assert list(client.system.vms_service().list()) == []


def test_answers_have_the_dates_of_the_clock(new_lab: Lab, client: Client) -> None:
    new_lab.clock.set("2020-06-30T22:00:00+02:00", frozen=True)
    moment = datetime.fromisoformat("2020-06-30T22:00:00+02:00")
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    vm.start()
    ready = client.start_backup(vm, [disk])
    assert (ready.creation_date, ready.modification_date) == (moment, moment)
    assert ready.creation_date.utcoffset() == timedelta(hours=2)
    (checkpoint,) = client.checkpoints(vm)
    assert checkpoint.creation_date == moment
    new_lab.clock.advance(60)
    done = client.finalize_backup(vm, ready.id)
    assert (done.creation_date, done.modification_date) == (moment, moment + timedelta(seconds=60))
    new_lab.clock.resume()
    wait_for(client.system.get, lambda api: api.time > moment + timedelta(seconds=60))


@pytest.mark.parametrize(("compat", "running"), [("4.6", True), ("4.7", True), ("4.6", False)])
def test_the_date_of_the_checkpoint_bounds_the_true_instant(
    new_lab: Lab, client: Client, compat: str, running: bool
) -> None:
    new_lab.clock.set("2024-02-29T12:00:00Z")
    vm = new_lab.add_vm("web1", compat=compat)
    disk = vm.add_disk("system", MIB)
    if running:
        vm.start()
    ready = client.start_backup(vm, [disk])
    (checkpoint,) = client.checkpoints(vm)
    assert ready.creation_date <= checkpoint.creation_date <= ready.modification_date
    modified = ready.modification_date
    assert client.finalize_backup(vm, ready.id).modification_date > modified


def test_the_lab_ends_with_work_in_progress_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    children = set(children_of(os.getpid()))
    with Lab(phase_lag_s=0.01) as new_lab:
        client = Client(new_lab)
        vm = new_lab.add_vm("web1")
        disk = vm.add_disk("system", MIB)
        vm.start()
        backup = client.start_backup(vm, [disk])
        transfer = client.start_download(disk.id, backup.id)
        new_lab.engine.phase_lag_s = 600
        client.add_disk(size=MIB)
        assert (new_lab.open_transfers(), new_lab.open_backups()) == ([transfer.id], [backup.id])
    assert set(threading.enumerate()) == before
    assert set(children_of(os.getpid())) == children
    assert not new_lab.cafile.exists()


PROGRAM = """
import sys, time
from pitr.lab import Lab
lab = Lab()
lab.__enter__()
vm = lab.add_vm("web1")
vm.add_disk("system", 1 << 20)
vm.start()
print(lab.cafile, flush=True)
if sys.argv[1] == "exit":
    sys.exit(0)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["exit", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_however_the_program_ends(end: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with program:
        assert program.stdout is not None
        cafile = Path(program.stdout.readline().strip())
        assert cafile.name
        if end != "exit":
            program.send_signal(signal.Signals[end])
        assert (program.wait() == 0) == (end == "exit")
    if end == "SIGKILL":
        # The killed lab could not clean up: the next lab does.
        with Lab():
            pass
    assert not cafile.exists()
    folder = str(cafile.parent.parent)
    wait_for(_commands, lambda commands: not any(folder in command for command in commands))


def _commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_folder_of_the_caller_stays_but_without_sockets(folder: Path) -> None:
    with Lab(folder) as new_lab:
        assert new_lab.password_file.stat().st_mode & 0o777 == 0o600
        assert new_lab.password_file.read_text().strip() == new_lab.password
        assert new_lab.environment()["PITR_CAFILE"] == str(new_lab.cafile)
    assert folder.exists()
    assert [path for path in folder.rglob("*") if path.is_socket()] == []
