# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring to image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.qcow2_file import Qcow2FileSink, Qcow2FileSource
from pitr.endpoints.images.raw_file import RawFileSink, RawFileSource
from pitr.errors import PitrError, UsageError
from pitr.jobs.file_names import file_names
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Stream
from pitr.text import printable

ImageFormat = Literal["raw", "qcow2"]
_EXTENSIONS = {"raw": ".raw", "qcow2": ".qcow2"}


class FilesTarget:
    """One image file for each disk: at `path`, or named after the disks in the folder `path`.

    `path` is a folder when there are several disks, when it is one already, or ends in "/". Raises UsageError
    when a file is there already: nothing is written over. With a `verifier` each file is read back and compared.
    """

    vm_id: str | None = None

    def __init__(
        self,
        path: str,
        image_format: ImageFormat,
        streams: Sequence[Stream],
        *,
        verifier: Verifier | None = None,
    ) -> None:
        self._verifier = verifier
        target = Path(path)
        self._format = image_format
        self._folder: Path | None = None
        self._made: list[Path] = []
        self._made_folder = False
        if len(streams) != 1 or target.is_dir() or path.endswith("/"):
            if target.exists() and not target.is_dir():
                raise UsageError(
                    f"{target} is not a folder", "Several disks need a folder: one file for each."
                )
            self._folder = target
            names = file_names(streams, _EXTENSIONS[image_format])
            self._paths = {disk_id: target / name for disk_id, name in names.items()}
        else:
            self._paths = {streams[0].disk_id: target}
        for file in self._paths.values():
            if file.exists() and not file.is_block_device():
                raise UsageError(f"{file} exists already", "Remove it, or name another file or folder.")

    def reads_zero(self, stream: Stream) -> bool:
        return not self._paths[stream.disk_id].is_block_device()

    def expected_name(self, stream: Stream) -> str | None:
        return str(self._paths[stream.disk_id])

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        path = self._paths[stream.disk_id]
        self._make_folder()
        sink: RawFileSink | Qcow2FileSink = (
            RawFileSink(path, source.size) if self._format == "raw" else Qcow2FileSink(path, source.size)
        )
        try:
            yield str(path), sink
        except BaseException:
            sink.abort()
            raise
        if not path.is_block_device():
            self._made.append(path)
        if self._verifier is not None:
            image = RawFileSource(path) if self._format == "raw" else Qcow2FileSource(path)
            with image:
                self._verifier.check_copy(stream.disk_id, printable(stream.name), source, image)

    def finish(self) -> None:
        pass

    def undo(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)
        if self._made_folder and self._folder is not None and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _make_folder(self) -> None:
        if self._folder is None or self._folder.is_dir():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PitrError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        self._made_folder = True
