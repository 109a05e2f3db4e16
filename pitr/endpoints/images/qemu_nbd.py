# SPDX-License-Identifier: GPL-2.0-or-later
"""A qemu-nbd that pitr starts for one image file."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from pitr.endpoints.images.nbd_export import MAX_CONNECTIONS
from pitr.errors import NbdError, ProgramFailed
from pitr.nbd.client import Client
from pitr.system.closing import Closes
from pitr.system.process import require, start

_START_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.01
#: On close, qemu writes back the tables that it still holds.
_STOP_TIMEOUT_S: Final = 600.0


class QemuNbd(Closes):
    """A qemu-nbd that serves the image file `path` on a unix socket in a private folder, until you close it.

    The caller gives `image_format`; guessing is unsafe, because a guest could write another format's header. A flush
    makes writes durable (cache=writeback); zeroes become holes where the file system allows it. The process exits
    when pitr is killed. Raises ProgramMissing, and ProgramFailed with the output of qemu-nbd.
    """

    def __init__(self, path: Path, image_format: str, *, read_only: bool) -> None:
        require("qemu-nbd")
        self._folder = tempfile.TemporaryDirectory(prefix="pitr-")
        folder = Path(self._folder.name)
        self._socket = str(folder / "nbd")
        self._errors = folder / "stderr"
        command = [
            "qemu-nbd",
            "--persistent",
            f"--shared={MAX_CONNECTIONS}",
            f"--socket={self._socket}",
            f"--format={image_format}",
            "--cache=writeback",
            "--discard=unmap",
            *(["--read-only"] if read_only else []),
            # Absolute, because qemu reads "name:rest" as a protocol.
            str(path.absolute()),
        ]
        try:
            with self._errors.open("wb") as errors:
                self._process = start(command, errors)
            try:
                self._wait()
            except BaseException:
                self.kill()
                raise
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def url(self) -> str:
        return f"nbd:unix:{self._socket}"

    def stop(self) -> None:
        """Stop qemu-nbd after it has closed the image. Raises ProgramFailed when it could not close it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramFailed(f"qemu-nbd did not exit within {_STOP_TIMEOUT_S:.0f} s") from None
        output = self._output()
        self.close()
        if code != 0:
            raise ProgramFailed(f"qemu-nbd failed with exit code {code}: {output}")

    def kill(self) -> None:
        """Kill qemu-nbd, and remove its folder."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.kill()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise ProgramFailed(f"qemu-nbd failed: {self._output()}")
            try:
                Client(self._socket, timeout_s=_START_TIMEOUT_S).close()
                return
            except NbdError as error:
                if not error.connection_lost or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _output(self) -> str:
        output = self._errors.read_text(errors="replace").strip() if self._errors.exists() else ""
        return output[-2000:]
