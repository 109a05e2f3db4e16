# SPDX-License-Identifier: GPL-2.0-or-later
"""Serve an image file that no VM uses with qemu-nbd."""

from __future__ import annotations

from pathlib import Path

from pitr.lab.host.children import Child, Children
from pitr.lab.host.volume import HostVolume

#: The number that an oVirt host uses; imageio opens as many connections for one ticket.
_CONNECTIONS = 8


class ImageServer:
    """One volume as a raw disk over NBD. The caller closes it; `url` is the URL for a ticket.

    With `bitmap` the server tells which ranges that bitmap marks as dirty. Raises LabError when qemu-nbd
    refuses.
    """

    def __init__(
        self,
        children: Children,
        volume: HostVolume,
        socket: Path,
        *,
        read_only: bool,
        discard: bool = True,
        bitmap: str | None = None,
    ) -> None:
        self.volume = volume
        self.read_only = read_only
        self.socket = socket
        self.url = f"nbd:unix:{socket}:exportname={volume.node}"
        # qemu-nbd writes it once it listens.
        self._pid_file = socket.with_suffix(".pid")
        self._child = self._start(children, bitmap, discard)

    def _start(self, children: Children, bitmap: str | None, discard: bool) -> Child:
        command = [
            "qemu-nbd",
            "--persistent",
            f"--shared={_CONNECTIONS}",
            f"--format={self.volume.qemu_format}",
            f"--socket={self.socket}",
            f"--export-name={self.volume.node}",
            f"--pid-file={self._pid_file}",
        ]
        if self.read_only:
            command.append("--read-only")
        elif discard:
            command += ["--discard=unmap", "--detect-zeroes=unmap"]
        else:
            command.append("--detect-zeroes=on")
        if bitmap is not None:
            command.append(f"--bitmap={bitmap}")
        child = children.start([*command, str(self.volume.path)])
        try:
            child.wait_until(self._pid_file.exists)
        except BaseException:
            child.kill()
            self._remove_files()
            raise
        return child

    def close(self) -> None:
        self._child.stop()
        self._remove_files()

    def _remove_files(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
