# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in image files that qemu reads, qcow2 above all, through a qemu-nbd that pitr starts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pitr.copier.wrapped import WrappedSource
from pitr.endpoints.images.nbd_export import NbdSink, NbdSource, NbdWriter
from pitr.endpoints.images.partial_file import PartialFile
from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.errors import UsageError
from pitr.system.closing import Closes
from pitr.system.process import require, run

#: qemu rounds a disk's size up to whole sectors.
SECTOR: Final = 512


class Qcow2FileSource(WrappedSource[NbdSource], Closes):
    """A source that reads an image file, with its backing files. `image_format` is any format that qemu knows.

    Closing it stops qemu-nbd. Raises ProgramMissing, ProgramFailed and NbdError.
    """

    def __init__(self, path: Path, image_format: str = "qcow2") -> None:
        self._server = QemuNbd(path, image_format, read_only=True)
        try:
            super().__init__(NbdSource(self._server.url))
        except BaseException:
            self._server.close()
            raise

    def close(self) -> None:
        self._source.close()
        self._server.close()


class Qcow2FileSink:
    """A sink that writes a new qcow2 file of `size` bytes. `flush` gives the file its name.

    Raises UsageError when the target already exists or the size is not a multiple of 512, which qcow2 cannot
    store. Raises ProgramMissing, ProgramFailed, NbdError and PitrError when pitr cannot write the file.
    """

    def __init__(self, path: Path, size: int) -> None:
        require("qemu-img", "qemu-nbd")
        if size % SECTOR:
            raise UsageError(
                f"qcow2 cannot store a disk of {size} bytes: the size is not a multiple of {SECTOR}",
                "Use the raw format.",
            )
        self._partial = PartialFile(path)
        try:
            run(["qemu-img", "create", "-q", "-f", "qcow2", str(self._partial.path), str(size)])
            self._server = QemuNbd(self._partial.path, "qcow2", read_only=False)
            try:
                self._sink = NbdSink(self._server.url, size, reads_zero=True)
            except BaseException:
                self._server.close()
                raise
        except BaseException:
            self._partial.abort()
            raise

    @property
    def max_writers(self) -> int:
        return self._sink.max_writers

    @property
    def reads_zero(self) -> bool:
        return True

    def open_writer(self) -> NbdWriter:
        return self._sink.open_writer()

    def flush(self) -> None:
        self._sink.flush()
        self._server.stop()
        self._partial.commit()

    def abort(self) -> None:
        self._sink.abort()
        self._server.kill()
        self._partial.abort()
