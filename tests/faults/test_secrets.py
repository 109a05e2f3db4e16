# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords and tickets do not appear in output, logs, tracebacks, command lines or the repository."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pitr.lab import Lab
from pitr.lab.host.host import Host
from pitr.lab.lab import LabVM
from tests.support.pitr_server import PitrServer

MiB = 1 << 20


@pytest.fixture(scope="module")
def vm(remote_lab: Lab) -> LabVM:
    vm = remote_lab.add_vm("web1")
    disk = vm.add_disk("system", 2 * MiB)
    vm.start()
    with disk.guest() as guest:
        guest.write(0, b"x" * MiB)
    return vm


@contextmanager
def watched(remote_lab: Lab) -> Iterator[tuple[set[str], set[str]]]:
    """Collect all tickets and all command lines of this test's processes while the block runs."""
    tickets: set[str] = set()
    commands: set[str] = set()
    ending = threading.Event()
    add = Host.add_ticket

    def noting(host: Host, ticket_id: str, *arguments: object, **named: object) -> None:
        tickets.add(ticket_id)
        add(host, ticket_id, *arguments, **named)  # type: ignore[arg-type]

    def look() -> None:
        while not ending.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    commands.add(
                        (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
                except OSError:
                    continue
            time.sleep(0.02)

    watcher = threading.Thread(target=look)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "add_ticket", noting)
        watcher.start()
        try:
            yield tickets, commands
        finally:
            ending.set()
            watcher.join()


def _hide_and_seek(texts: dict[str, str], secrets: set[str]) -> None:
    for where, text in texts.items():
        for secret in secrets:
            assert secret not in text, f"a secret is in {where}"


def _stored(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes().decode("latin-1") for path in files}


def test_no_secret_is_in_output_logs_command_lines_or_the_repository(
    remote_lab: Lab, vm: LabVM, server: PitrServer, folder: Path
) -> None:
    with watched(remote_lab) as (tickets, commands):
        said = {}
        for name, arguments in {
            "full": ("backup", "web1", "--full"),
            "incremental": ("backup", "web1"),
            "restore": ("restore", "--at", "now", "--to-new-disks"),
            "restore to qcow2": (
                "restore",
                "--at",
                "now",
                "--to-file",
                str(folder / "i"),
                "--format",
                "qcow2",
            ),
            "cleanup": ("engine", "cleanup"),
            "show": ("list", "-o", "json"),
        }.items():
            done = server.run(*arguments, "--debug")
            assert done.code == 0, done.said
            said[name] = done.out + done.said
    assert len(tickets) == 3
    assert any("qemu-nbd" in command for command in commands)
    secrets = {remote_lab.password, *tickets}
    ours = {command for command in commands if "pitr-lab" not in command}
    _hide_and_seek({**said, **_stored(folder / "repository"), "a command line": "\n".join(ours)}, secrets)


@pytest.mark.parametrize("where", ["imageio", "login"])
def test_no_secret_is_in_a_traceback(remote_lab: Lab, vm: LabVM, server: PitrServer, where: str) -> None:
    with watched(remote_lab) as (tickets, _), pytest.MonkeyPatch.context() as patch:
        if where == "imageio":
            # The daemon does not know this ticket, and repeats its address in the answer.
            url = urlsplit(remote_lab.host.images_url)
            patch.setattr(Host, "images_url", f"{url.scheme}://{url.netloc}/images/x")
        else:
            refusal = '{"error_code":"access_denied","error":"no"}'
            remote_lab.engine.faults.next("POST", "oauth/token", status=400, body=refusal)
        done = server.run("backup", "web1", "--full", "--debug")
    assert done.code == 6, done.said
    assert "Traceback" in done.said
    _hide_and_seek({"a traceback": done.said}, {remote_lab.password, *tickets})
    remote_lab.engine.faults.clear()
    assert (remote_lab.open_backups(), remote_lab.open_transfers()) == ([], [])
