# SPDX-License-Identifier: GPL-2.0-or-later
"""One qemu-storage-daemon: qemu's block layer without a machine around it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pitr.errors import LabError
from pitr.lab.host.children import Children
from pitr.lab.host.qmp import Monitor

_TIMEOUT_S = 30
_POLL_S = 0.005


class StorageDaemon:
    """A qemu-storage-daemon with an NBD server on a unix socket. The caller closes it. Raises LabError.

    Closing it is a clean shutdown: persistent bitmaps are stored in their images.
    """

    def __init__(self, children: Children, nbd_socket: Path) -> None:
        self._nbd_socket = nbd_socket
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = children.start(
                [
                    "qemu-storage-daemon",
                    "--chardev",
                    f"socket,id=monitor,fd={theirs.fileno()}",
                    "--monitor",
                    "chardev=monitor",
                ],
                pass_fds=[theirs.fileno()],
            )
        try:
            self._monitor = Monitor(ours)
        except LabError as error:
            self._child.kill()
            raise LabError(
                f"qemu-storage-daemon did not start: {self._child.output().strip()[-1000:]}"
            ) from error
        try:
            address = {"type": "unix", "data": {"path": str(nbd_socket)}}
            self.execute("nbd-server-start", {"addr": address})
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        return self._monitor.execute(command, arguments)

    def transaction(self, actions: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        """Run all (command, arguments) pairs in this order, or none of them."""
        self.execute(
            "transaction", {"actions": [{"type": kind, "data": dict(data)} for kind, data in actions]}
        )

    def add_export(
        self, export: str, node: str, *, writable: bool, bitmap: tuple[str, str] | None = None
    ) -> None:
        """Serve `node` over NBD as `export`, with the bitmap (node, name) if given."""
        arguments: dict[str, object] = {
            "type": "nbd",
            "id": export,
            "node-name": node,
            "name": export,
            "writable": writable,
        }
        if bitmap is not None:
            arguments["bitmaps"] = [{"node": bitmap[0], "name": bitmap[1]}]
        self.execute("block-export-add", arguments)

    def export_url(self, export: str) -> str:
        return f"nbd:unix:{self._nbd_socket}:exportname={export}"

    def remove_export(self, export: str) -> None:
        """Disconnect the export's clients and wait until it is gone."""
        self.execute("block-export-del", {"id": export, "mode": "hard"})
        self._wait_until_gone("query-block-exports", "id", export)

    def cancel_job(self, job: str) -> None:
        """Cancel a block job and wait until it is gone."""
        self.execute("block-job-cancel", {"device": job})
        self._wait_until_gone("query-block-jobs", "device", job)

    def bitmaps(self, node: str) -> set[str]:
        """The names of all usable dirty bitmaps of a node."""
        for described in self.execute("query-named-block-nodes", {"flat": True}):
            if described["node-name"] == node:
                found = described.get("dirty-bitmaps", [])
                return {bitmap["name"] for bitmap in found if not bitmap.get("inconsistent", False)}
        raise LabError(f"qemu has no node {node}")

    def close(self) -> None:
        self._monitor.close()
        self._child.stop()
        self._nbd_socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """Stop the daemon like a power failure, instead of closing it."""
        self._child.kill()
        self._monitor.close()
        self._nbd_socket.unlink(missing_ok=True)

    def _wait_until_gone(self, query: str, key: str, name: str) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while any(item.get(key) == name for item in self.execute(query)):
            if time.monotonic() > deadline:
                raise LabError(f"{name} still exists after {_TIMEOUT_S} s ({query})")
            time.sleep(_POLL_S)
