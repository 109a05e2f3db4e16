# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost connections to a real imageio daemon, its restart, and an engine that is briefly unreachable."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pitr.lab import Lab
from pitr.lab.host.host import Host
from pitr.lab.lab import LabVM
from pitr.ovirt.imageio import session as imageio_http
from tests.support.pitr_server import PitrServer
from tests.support.proxies import ByteProxy

MiB = 1 << 20


@pytest.fixture(scope="module")
def proxy(remote_lab: Lab) -> Iterator[ByteProxy]:
    """A proxy between pitr and the daemon; the engine returns its address."""
    port = urlsplit(remote_lab.host.images_url).port
    assert port is not None
    with ByteProxy(port) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "images_url", f"https://localhost:{proxy.port}/images")
        yield proxy


@pytest.fixture(scope="module")
def vm(remote_lab: Lab, proxy: ByteProxy) -> LabVM:
    vm = remote_lab.add_vm("web1")
    disk = vm.add_disk("system", 24 * MiB)
    vm.start()
    with disk.guest() as guest:
        guest.write(0, random.Random(1).randbytes(20 * MiB))
    return vm


@pytest.fixture(autouse=True)
def clean(remote_lab: Lab, proxy: ByteProxy) -> Iterator[None]:
    proxy.faults = 0
    yield
    proxy.clear()
    remote_lab.engine.faults.clear()
    assert (remote_lab.open_transfers(), remote_lab.open_backups(), remote_lab.locked_disks()) == ([], [], [])


def _content(remote_lab: Lab, disk_id: str, folder: Path) -> bytes:
    image = folder / "content.raw"
    remote_lab.disk(disk_id).copy_content(image)
    content = image.read_bytes()
    image.unlink()
    return content


def _check_newest_point(remote_lab: Lab, vm: LabVM, server: PitrServer, folder: Path) -> None:
    image = folder / "restored.raw"
    done = server.run("restore", "web1", "--at", "now", "--to-file", str(image))
    assert done.code == 0, done.said
    assert image.read_bytes() == _content(remote_lab, vm.disks[0].id, folder)
    image.unlink()


def test_a_backup_with_connections_broken_in_mid_body_is_complete(
    remote_lab: Lab, vm: LabVM, server: PitrServer, proxy: ByteProxy, folder: Path
) -> None:
    for count in (10_000, MiB, 3 * MiB):
        proxy.drop_after(count)
    done = server.run("backup", "web1", "--full")
    assert done.code == 0, done.said
    assert proxy.faults == 3
    _check_newest_point(remote_lab, vm, server, folder)


def test_a_restore_with_broken_connections_is_complete(
    remote_lab: Lab, vm: LabVM, server: PitrServer, proxy: ByteProxy, folder: Path
) -> None:
    assert server.run("backup", "web1").code == 0
    before = {disk.id for disk in remote_lab.disks}
    for count in (10_000, MiB, 3 * MiB):
        proxy.drop_after(count)
    done = server.run("restore", "web1", "--at", "now", "--to-new-disks")
    assert done.code == 0, done.said
    assert proxy.faults == 3
    (new,) = {disk.id for disk in remote_lab.disks} - before
    assert _content(remote_lab, new, folder) == _content(remote_lab, vm.disks[0].id, folder)


def _while_running(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_lost_ticket_ends_the_backup_with_one_line(
    remote_lab: Lab, vm: LabVM, server: PitrServer, proxy: ByteProxy
) -> None:
    # The daemon restarts without tickets in mid-body, and answers 403 from then on.
    proxy.drop_after(2 * MiB)

    def restart() -> None:
        while not proxy.faults:
            time.sleep(0.005)
        remote_lab.host.restart_daemon()

    restarting = _while_running(restart)
    done = server.run("backup", "web1", "--full")
    restarting.join()
    assert done.code == 6, done.said
    lines = [line for line in done.said.splitlines() if "taking a full" not in line]
    assert len(lines) == 1, lines
    assert "The transfer has ended or expired" in lines[0]
    assert server.run("backup", "web1").code == 0


def test_an_unreachable_host_ends_the_backup_with_one_line(
    remote_lab: Lab, vm: LabVM, server: PitrServer, proxy: ByteProxy
) -> None:
    proxy.refusing = True
    done = server.run("backup", "web1", "--full")
    assert done.code == 6, done.said
    assert "6 times" in done.said
    assert "Traceback" not in done.said


def test_a_backup_waits_for_an_engine_that_is_briefly_unreachable(
    remote_lab: Lab, vm: LabVM, server: PitrServer, folder: Path
) -> None:
    # Some requests of each kind that a backup sends are lost before they reach the engine.
    for method, path in (("GET", r"/backups/[^/]+$"), ("GET", "/imagetransfers"), ("POST", "/finalize$")):
        remote_lab.engine.faults.drop_connection(method, path, times=2)
    remote_lab.engine.faults.next("GET", r"/checkpoints", status=503, times=2)
    done = server.run("backup", "web1")
    assert done.code == 0, done.said
    _check_newest_point(remote_lab, vm, server, folder)


def test_long_requests_do_not_use_the_timeout_of_the_client_library() -> None:
    """pitr uses its own connections for lists of extents, flushes and slow zero requests."""
    assert imageio_http.ANSWER_TIMEOUT_S >= 1800
