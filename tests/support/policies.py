# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies in a configuration file, VMs for them, and a server that gets their notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB
from tests.support.pitr import Pitr


def add_vm(lab: Lab, name: str, *tags: str, disks: Sequence[str] = ("system",)) -> LabVM:
    """A running VM with these tags and disks of 1 MiB."""
    vm = lab.add_vm(name, tags=list(tags))
    for number, disk in enumerate(disks):
        vm.add_disk(disk, MiB, bootable=number == 0)
    vm.start()
    return vm


def configure(pitr: Pitr, text: str) -> None:
    """Write the configuration file of this pitr."""
    Path(pitr.environment["PITR_CONFIG"]).write_text(text)


def steps_of(document: Any, step: str) -> dict[str | None, Any]:
    """Return the steps of one kind in the document of a run, by VM."""
    return {each["vm"]: each for each in document["steps"] if each["step"] == step}


@dataclass(slots=True)
class NoticeServer:
    """What a server got: (path, body) of each request, in order. It answers with `status`."""

    url: str
    got: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.got]


class _Mail(StreamRequestHandler):
    """One connection of a mail client: it accepts everything."""

    def handle(self) -> None:
        self._say("220 mail")
        mail: list[str] | None = None
        for line in self.rfile:
            text = line.decode().rstrip("\r\n")
            if mail is not None and text != ".":
                mail.append(text)
                continue
            if mail is not None:
                self.server.mails.append("\n".join(mail))  # type: ignore[attr-defined]
            mail = [] if text.lower() == "data" else None
            self._say("354 go on" if mail is not None else "250 done")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """Run a mail server without login; yield its port and the mails that it got."""
    with ThreadingTCPServer(("127.0.0.1", 0), _Mail) as server:
        server.daemon_threads = True
        server.mails = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], server.mails  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def notice_server() -> Iterator[NoticeServer]:
    """Run an HTTP server that keeps what it gets."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            kept.got.append((self.path, body))
            self.send_response(kept.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = NoticeServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
