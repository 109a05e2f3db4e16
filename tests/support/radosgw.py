# SPDX-License-Identifier: GPL-2.0-or-later
"""A Ceph cluster of one monitor and one OSD in memory, with a gateway for S3 in front, on this machine.

    python -m tests.support.radosgw COMMAND…

runs a command with the gateway's address in PITR_TEST_S3, and ends the cluster after it. It needs Debian's packages
ceph-mon, ceph-osd, ceph-common and radosgw. Nothing of it is left, and several clusters can run at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.s3 import KEY, SECRET, SERVER_VARIABLE

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_MEMORY = 6 << 30
_START_S = 120
_STOP_S = 20


class Failed(Exception):
    """The cluster did not start."""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@contextmanager
def running(*, tcp_nodelay: bool = True) -> Iterator[str]:
    """Run a cluster for the block. Return the address of its gateway."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-rgw-"))
    cluster = _Cluster(folder, tcp_nodelay)
    try:
        cluster.start()
        yield cluster.address
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Cluster:
    def __init__(self, folder: Path, tcp_nodelay: bool) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._fsid = str(uuid.uuid4())
        self._mon, gateway = _free_ports(2)
        self._frontend = f"beast endpoint=127.0.0.1:{gateway}" + (" tcp_nodelay=1" if tcp_nodelay else "")
        self._gateway = gateway
        self.address = f"http://127.0.0.1:{gateway}"

    def start(self) -> None:
        for name in ("mon", "osd"):
            (self._folder / name).mkdir()
        (self._folder / "ceph.conf").write_text(self._configuration())
        keyring, monmap = self._folder / "keyring", self._folder / "monmap"
        self._run(
            "ceph-authtool", "--create-keyring", keyring, "-n", "mon.", "--gen-key", "--cap", "mon", "allow *"
        )
        rights = [word for what in ("mon", "osd", "mgr") for word in ("--cap", what, "allow *")]
        self._run("ceph-authtool", keyring, "-n", "client.admin", "--gen-key", *rights)
        at = f"[v2:127.0.0.1:{self._mon}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", at, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-f", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        rights = ["mon", "profile osd", "osd", "allow *"]
        key = self._folder / "osd" / "keyring"
        self._run("ceph", "auth", "get-or-create", "osd.0", *rights, "-o", key)
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-f", "-i", "0")
        self._daemon("radosgw", "-f", "-n", "client.admin")
        self._wait()
        for user, access in (("test", KEY), ("writer", "writer"), ("keeper", "keeper")):
            self._run(
                *(
                    "radosgw-admin",
                    "-n",
                    "client.admin",
                    "user",
                    "create",
                    "--uid",
                    user,
                    "--display-name",
                    user,
                ),
                *("--access-key", access, "--secret-key", SECRET),
            )

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _configuration(self) -> str:
        settings = {
            "fsid": self._fsid,
            "mon host": f"v2:127.0.0.1:{self._mon}",
            "mon initial members": "a",
            "public network": "127.0.0.0/8",
            "keyring": self._folder / "keyring",
            "mon data": self._folder / "mon",
            "osd data": self._folder / "osd",
            "rgw data": self._folder,
            "run dir": self._folder,
            "log file": self._folder / "$name.log",
            "admin socket": self._folder / "$name.asok",
            # One copy on one OSD in memory; the monitor must not mind.
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 8,
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": "true",
            "auth allow insecure global id reclaim": "false",
            "osd objectstore": "memstore",
            "memstore device bytes": _MEMORY,
            "rgw frontends": self._frontend,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        return "\n".join(["[global]", *lines, "[osd.0]", f"keyring = {self._folder / 'osd' / 'keyring'}", ""])

    def _environment(self) -> dict[str, str]:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {**os.environ, "PATH": path, "CEPH_CONF": str(self._folder / "ceph.conf"), "CEPH_ARGS": ""}

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{command[0]} exited with {done.returncode}: {done.stderr[-1000:]}")

    def _daemon(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _wait(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    name = Path(str(daemon.args[0])).name  # type: ignore[index]
                    raise Failed(f"{name} ended: {(self._folder / f'{name}.out').read_text()[-1000:]}")
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._gateway), timeout=1).close()
                return
            time.sleep(0.2)
        raise Failed(f"the gateway does not listen after {_START_S} seconds")


def _free_ports(count: int) -> list[int]:
    with_port = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in with_port]
    for each in with_port:
        each.close()
    return ports


def main(command: Sequence[str]) -> int:
    """Run the command beside a cluster; return its exit code."""
    lacking = missing()
    if lacking:
        sys.stderr.write(f"These programs of Ceph are not installed: {', '.join(lacking)}\n")
        return 2
    # A signal must still end the cluster.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with running() as address:
            sys.stderr.write(f"A Ceph gateway for S3 listens at {address}\n")
            return subprocess.run(
                command, env={**os.environ, SERVER_VARIABLE: address}, check=False
            ).returncode
    except Failed as error:
        sys.stderr.write(f"Ceph does not start: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
