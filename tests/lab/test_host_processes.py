# SPDX-License-Identifier: GPL-2.0-or-later
"""No process outlives the host, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pitr.errors import LabError, NbdError
from pitr.lab.host import Host
from pitr.lab.host.children import Children
from tests.support.lab_host import MIB, children_of, is_running

#: A process with one of each child: imageio, qemu-storage-daemon, qemu-nbd.
LAB = """
import sys
from pathlib import Path
from pitr.lab.host import Host
from pitr.lab.host.children import Children

with Host(Path(sys.argv[1])) as host:
    for name in ("up", "down"):
        host.create_volume(name, 1 << 20, "cow")
    host.start_vm("vm", ["up"])
    host.serve_volume("down", read_only=False)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["kill", "terminate", "interrupt", "end"])
def test_no_child_outlives_a_process_that_ends(folder: Path, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAB, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as lab:
        assert lab.stdin is not None
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"ready\n"
        children = children_of(lab.pid)
        assert len(children) == 3
        if how == "kill":
            lab.kill()
        elif how == "terminate":
            lab.terminate()
        elif how == "interrupt":
            lab.send_signal(signal.SIGINT)
        lab.stdin.close()
        lab.wait()
    deadline = time.monotonic() + 30
    while any(is_running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [child for child in children if is_running(child)] == []


def test_a_child_outlives_the_thread_that_started_it(new_host: Host) -> None:
    new_host.create_volume("disk", MIB, "cow")
    thread = threading.Thread(target=new_host.start_vm, args=("vm", ["disk"]))
    thread.start()
    thread.join()
    with new_host.guest("vm", "disk") as guest:
        guest.write(0, b"alive")
        assert guest.read(0, 5) == b"alive"


def test_everything_open_is_closed_at_the_end(folder: Path) -> None:
    before = set(children_of(os.getpid()))
    with Host(folder) as new_host:
        for name in ("up", "down", "served"):
            new_host.create_volume(name, MIB, "cow")
        new_host.start_vm("vm", ["up"])
        new_host.begin_backup("vm", "live", {"up": None}, "c1")
        new_host.begin_backup(None, "cold", {"down": None}, "c1")
        new_host.serve_volume("served", read_only=False)
        guest = new_host.guest("vm", "up")
        assert len(set(children_of(os.getpid())) - before) == 4
    assert set(children_of(os.getpid())) <= before
    assert [path for path in folder.rglob("*") if path.is_socket()] == []
    assert list((folder / "scratch").iterdir()) == []
    with pytest.raises(NbdError):
        guest.read(0, 1)
    guest.close()


#: Deaf to the first two requests to end, as qemu-nbd is for a moment after its start; then it ends in order.
HARD_OF_HEARING = """
import signal, sys
from pathlib import Path

asked = 0

def hear(signum, frame):
    global asked
    asked += 1
    if asked == 3:
        Path(sys.argv[2]).touch()
        sys.exit()

signal.signal(signal.SIGTERM, hear)
Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


def test_a_program_that_misses_a_signal_gets_another(folder: Path) -> None:
    ready, ended = folder / "ready", folder / "ended"
    with Children(folder / "log") as children:
        child = children.start([sys.executable, "-c", HARD_OF_HEARING, str(ready), str(ended)])
        child.wait_until(ready.exists)
        child.stop()
    assert not child.is_alive()
    assert ended.exists()


def test_a_program_that_does_not_start_says_why(new_host: Host) -> None:
    volume = new_host.create_volume("disk", MIB, "cow")
    volume.path.write_bytes(b"not a qcow2 image")
    with pytest.raises(LabError, match="not in qcow2 format"):
        new_host.serve_volume("disk", read_only=True)
    with pytest.raises(LabError, match="not in qcow2 format"):
        new_host.start_vm("vm", ["disk"])
    assert not new_host.is_running("vm")


def test_a_folder_that_is_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(LabError, match="too long"):
        Host(Path("/tmp") / ("deep" * 30))  # noqa: S108 - never created
