# SPDX-License-Identifier: GPL-2.0-or-later
"""A qcow2 file that exists already, and that a restore completes in place.

Like a raw image (`reused_file`), it has the name of a partial file while it is not complete.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import orjson

from pitr.endpoints.images.nbd_export import NbdSink, NbdSource, NbdWriter
from pitr.endpoints.images.partial_file import SUFFIX, file_errors, hold
from pitr.endpoints.images.qcow2_file import SECTOR
from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.endpoints.images.reused_file import regular_file, rename_image, reusable
from pitr.errors import ProgramFailed, UsageError
from pitr.system.process import require, run

_MAGIC: Final = b"QFI\xfb"


def is_qcow2(path: Path) -> bool:
    """Return whether a file begins like a qcow2 image. Raises PitrError."""
    with file_errors(path), path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def check_reusable_qcow2(path: Path, size: int) -> None:
    """Check that a restore can complete the qcow2 file `path` to a disk of `size` bytes; write nothing.

    Raises UsageError with the reason, ProgramMissing, ProgramFailed.
    """
    if size % SECTOR:
        raise UsageError(
            f"qcow2 cannot store a disk of {size} bytes: the size is not a multiple of {SECTOR}",
            "Use the raw format.",
        )
    if not is_qcow2(path):
        raise UsageError(
            f"{path} is not a qcow2 image", "Name a raw image with --format raw, or another file."
        )
    described = _described(path)
    problem = ""
    if described.get("backing-filename"):
        problem = "it has a backing file, and holds only a part of the disk"
    elif described.get("encrypted"):
        problem = "it is encrypted"
    elif described.get("format-specific", {}).get("data", {}).get("data-file"):
        problem = "its data is in another file"
    elif described.get("snapshots") and described.get("virtual-size") != size:
        problem = f"it has snapshots, so its disk cannot become {size} bytes long"
    if problem:
        raise UsageError(f"cannot reuse {path}: {problem}", "Restore to a new file, without --reuse.")


def _described(path: Path) -> dict[str, Any]:
    # A shared look: another pitr may hold the image, which `hold` notices.
    text = run(["qemu-img", "info", "--force-share", "--output=json", "-f", "qcow2", str(path.absolute())])
    described: dict[str, Any] = orjson.loads(text)
    return described


class ReusedQcow2Sink:
    """A sink that changes an existing qcow2 file in place and gives its disk `size` bytes. `flush` gives it its name.

    After `abort` the file stays, as a partial file that the next restore can complete. Raises UsageError if it cannot
    be reused or another process restores to it, ProgramMissing, ProgramFailed, NbdError and PitrError.
    """

    reads_zero = False

    def __init__(self, target: Path, size: int) -> None:
        require("qemu-img", "qemu-nbd")
        self._target = target.absolute()
        self._partial = self._target.with_name(self._target.name + SUFFIX)
        found = reusable(self._target)
        if found is None:
            raise FileNotFoundError(self._target)
        check_reusable_qcow2(found, size)
        with file_errors(found):
            self._descriptor = os.open(found, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            regular_file(self._descriptor, found)
            hold(self._descriptor, found)
            if found != self._partial:
                with file_errors(found):
                    rename_image(found, self._partial)
            self._server, self._sink = self._served(size)
        except BaseException:
            self._close()
            raise

    @property
    def max_writers(self) -> int:
        return self._sink.max_writers

    @property
    def name_while_open(self) -> str:
        """The name of the file until it is complete, without its folder."""
        return self._partial.name

    def open_writer(self) -> NbdWriter:
        return self._sink.open_writer()

    def present(self) -> NbdSource:
        """Return what the image holds now. Closing it closes no connection."""
        return self._sink.present()

    def flush(self) -> None:
        self._sink.flush()
        self._server.stop()
        with file_errors(self._target):
            os.fsync(self._descriptor)
            rename_image(self._partial, self._target)
        self._close()

    def abort(self) -> None:
        """Keep what is written: it is a partial file, and the next restore goes on with it."""
        self._sink.abort()
        self._server.close()
        self._close()

    def _served(self, size: int) -> tuple[QemuNbd, NbdSink]:
        path = str(self._partial)
        # A restore that was killed can leave clusters that nothing uses.
        try:
            run(["qemu-img", "check", "-q", "-f", "qcow2", "-r", "leaks", path])
            present = _described(self._partial)["virtual-size"]
            if present != size:
                shrink = ["--shrink"] if size < present else []
                run(["qemu-img", "resize", "-q", "-f", "qcow2", *shrink, path, str(size)])
        except ProgramFailed as error:
            raise ProgramFailed(
                f"cannot reuse {self._partial}: {error.message}",
                "Remove the file, and restore to a new one without --reuse.",
            ) from None
        server = QemuNbd(self._partial, "qcow2", read_only=False)
        try:
            return server, NbdSink(server.url, size)
        except BaseException:
            server.close()
            raise

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
