# SPDX-License-Identifier: GPL-2.0-or-later
"""A real ovirt-imageio daemon, and its tickets."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ovirt_imageio import admin

from pitr.errors import LabError
from pitr.lab.host.children import Child, Children
from pitr.lab.host.pki import Pki

#: Seconds that the daemon waits for running operations before it answers a removal with 409.
_REMOVE_TIMEOUT_S = 1
_LISTENING = re.compile(r"remote\.service listening on \('127\.0\.0\.1', (\d+)\)")


class _RefusedError(LabError):
    """The daemon refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ImageioDaemon:
    """An ovirt-imageio daemon on its own port. The caller closes it. Raises LabError."""

    def __init__(self, children: Children, folder: Path, pki: Pki, *, tls: bool, unix_socket: bool) -> None:
        self._children = children
        self._folder = folder
        self._pki = pki
        self._tls = tls
        self._unix_socket = unix_socket
        self._port = 0
        (folder / "conf.d").mkdir(parents=True)
        self._child = self._start()

    @property
    def images_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self._port}/images"

    def restart(self) -> None:
        """Restart the daemon on the same port; tickets and open connections are lost."""
        self._child.stop()
        self._child = self._start()

    def close(self) -> None:
        self._child.stop()

    def add_ticket(self, ticket: dict[str, object]) -> None:
        with self._client() as client:
            _ask(client.add_ticket, ticket)

    def ticket(self, ticket_id: str) -> dict[str, Any] | None:
        """Return the daemon's information about a ticket, None if it does not exist."""
        with self._client() as client:
            try:
                return dict(_ask(client.get_ticket, ticket_id))
            except _RefusedError as refusal:
                if refusal.status == HTTPStatus.NOT_FOUND:
                    return None
                raise

    def renew_ticket(self, ticket_id: str, timeout_s: int) -> bool:
        """Let a ticket end `timeout_s` seconds from now. Return False if it does not exist."""
        with self._client() as client:
            try:
                _ask(lambda changes: client.mod_ticket(ticket_id, changes), {"timeout": timeout_s})
            except _RefusedError as refusal:
                if refusal.status == HTTPStatus.NOT_FOUND:
                    return False
                raise
        return True

    def remove_ticket(self, ticket_id: str) -> bool:
        """Cancel and remove a ticket; it need not exist.

        False when operations still run: the ticket is cancelled then, but has to be removed again.
        """
        with self._client() as client:
            try:
                _ask(client.del_ticket, ticket_id)
            except _RefusedError as refusal:
                # The daemon answers 409 for a ticket in use. Under load it can answer 500 when an operation has
                # just ended and its connection is still closing; a retry succeeds.
                if refusal.status in (HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR):
                    return False
                raise
        return True

    def _client(self) -> admin.Client:
        return admin.Client(admin.load_config(str(self._folder)))

    def _start(self) -> Child:
        # A killed daemon leaves its sockets behind, and the next one does not start with them.
        for name in ("control", "local"):
            (self._folder / name).unlink(missing_ok=True)
        (self._folder / "conf.d" / "50-lab.conf").write_text(self._configuration())
        child = self._children.start([_program(), "-c", str(self._folder)])
        try:
            child.wait_until(lambda: "Ready for requests" in child.output())
            listening = _LISTENING.search(child.output())
            if listening is None:
                raise LabError("ovirt-imageio does not report its port")
        except BaseException:
            child.kill()
            raise
        self._port = int(listening[1])
        return child

    def _configuration(self) -> str:
        sections: dict[str, dict[str, object]] = {
            "daemon": {"poll_interval": 0.1, "systemd_enable": False, "drop_privileges": False},
            "tls": {
                "enable": self._tls,
                "key_file": self._pki.private_key,
                "cert_file": self._pki.certificate,
                "ca_file": self._pki.cafile,
            },
            "remote": {"host": "127.0.0.1", "port": self._port},
            "local": {"enable": self._unix_socket, "socket": self._folder / "local"},
            "control": {
                "transport": "unix",
                "socket": self._folder / "control",
                "remove_timeout": _REMOVE_TIMEOUT_S,
            },
            "handlers": {"keys": "stderr"},
            "logger_root": {"level": "INFO", "handlers": "stderr"},
        }
        lines: list[str] = []
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines.extend(
                f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
                for key, value in values.items()
            )
        return "\n".join(lines) + "\n"


def _program() -> str:
    beside = Path(sys.executable).with_name("ovirt-imageio")
    found = str(beside) if beside.exists() else shutil.which("ovirt-imageio")
    if found is None:
        raise LabError("the program ovirt-imageio is not installed", "Run: pip install ovirt-imageio")
    return found


def _ask(request: Callable[[Any], Any], argument: object) -> Any:
    try:
        return request(argument)
    except admin.ServerError as error:
        raise _RefusedError(error.code, f"ovirt-imageio refused: {error.message}") from error
    except admin.Error as error:
        raise LabError(f"ovirt-imageio is unreachable: {error}") from error
