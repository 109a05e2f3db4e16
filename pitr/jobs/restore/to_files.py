# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.clipped import Clipped
from pitr.endpoints.images.qcow2_file import Qcow2FileSink, Qcow2FileSource
from pitr.endpoints.images.raw_file import RawFileSink, RawFileSource
from pitr.endpoints.images.reused_file import ReusedFileSink, reusable
from pitr.endpoints.images.reused_qcow2 import ReusedQcow2Sink, check_reusable_qcow2, is_qcow2
from pitr.endpoints.images.shared_file import SharedFileSink
from pitr.errors import PitrError, UsageError
from pitr.jobs.file_names import file_names
from pitr.jobs.restore.choice import ImageFormat, ToFiles
from pitr.jobs.restore.outcome import TargetOutcome, TargetPlace
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Stream
from pitr.reporting import Notify
from pitr.system.target_path import check_image_target, format_of_suffix, usable
from pitr.text import printable

_ImageSink = RawFileSink | Qcow2FileSink | ReusedFileSink | ReusedQcow2Sink
_EXTENSIONS = {ImageFormat.RAW: ".raw", ImageFormat.QCOW2: ".qcow2"}


class FilesTarget:
    """Creates an image file for each disk: `choice.path`, or in this folder a file with the name of each disk.

    With a `verifier` each file is read back and compared. Raises UsageError if a file already exists: pitr overwrites
    nothing except block devices, and those only if `choice.overwrite_device` is set and nothing uses them. With
    `choice.reuse` it completes files that exist, and writes only what they lack.
    """

    vm_id: str | None = None

    def __init__(
        self,
        choice: ToFiles,
        streams: Sequence[Stream],
        *,
        verifier: Verifier | None = None,
        notify: Notify = lambda line: None,
    ) -> None:
        self._verifier = verifier
        self._notify = notify
        self._reuse = choice.reuse
        self._format = choice.image_format
        self._folder: Path | None = None
        self._made: list[Path] = []
        #: The qcow2 files that are being completed, by disk id.
        self._open: dict[str, ReusedQcow2Sink] = {}
        self._made_folder = False
        self._overwrite_device = choice.overwrite_device
        target = Path(usable(choice.path, "--to-file"))
        if len(streams) != 1 or choice.is_folder:
            if target.exists() and not target.is_dir():
                raise UsageError(
                    f"{target} is not a folder", "Name a folder: several disks need a file each."
                )
            if not choice.is_folder and format_of_suffix(target):
                raise UsageError(
                    f"{target} is a file, but there are {len(streams)} disks",
                    f"Name a folder, with a slash at its end: --to-file {target.with_suffix('')}/ Or choose a disk "
                    "with --disk.",
                )
            self._folder = target
            names = file_names(streams, _EXTENSIONS[self._format])
            self._paths = {disk_id: target / name for disk_id, name in names.items()}
        else:
            self._paths = {streams[0].disk_id: target}
        for stream in streams:
            self._check(self._paths[stream.disk_id], stream.size)

    def _check(self, path: Path, size: int) -> None:
        if path.is_block_device() and self._format is not ImageFormat.RAW:
            raise UsageError(
                f"{path} is a block device: pitr writes only raw data to it",
                "Use --format raw, or name a file.",
            )
        found = self._reused(path)
        if found is None:
            check_image_target(path, size, overwrite_device=self._overwrite_device)
        elif self._format is ImageFormat.QCOW2:
            check_reusable_qcow2(found, size)
        elif is_qcow2(found):
            raise UsageError(
                f"{found} is a qcow2 image", "Add --format qcow2, or restore to a new file, without --reuse."
            )

    def _reused(self, path: Path) -> Path | None:
        """Return the file that this restore completes; None for a new one and for a block device."""
        return reusable(path) if self._reuse and not path.is_block_device() else None

    def reads_zero(self, stream: Stream) -> bool:
        path = self._paths[stream.disk_id]
        return not path.is_block_device() and self._reused(path) is None

    def present(self, stream: Stream) -> AbstractContextManager[Source | None]:
        path = self._paths[stream.disk_id]
        opened = self._open.get(stream.disk_id)
        if opened is not None:
            return nullcontext(opened.present())
        found = path if self._reuse and path.is_block_device() else self._reused(path)
        if found is None:
            return nullcontext()
        if self._format is ImageFormat.QCOW2:
            return _qcow2_disk(found, stream.size)
        return RawFileSource(found, size=stream.size)

    def expected_name(self, stream: Stream) -> str | None:
        return str(self._paths[stream.disk_id])

    def outcome(self) -> TargetOutcome:
        return TargetOutcome(
            {
                disk_id: TargetPlace(
                    str(path), self._format.value, not path.is_block_device(), _free_bytes(path), None, None
                )
                for disk_id, path in self._paths.items()
            }
        )

    def prepare(self) -> None:
        pass

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        self._make_folder()
        sink, is_new = self._opened(self._paths[stream.disk_id], source.size)
        with self._writing(stream, source, sink, is_new=is_new) as name:
            yield name, sink

    @contextmanager
    def shared_sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, SharedFileSink]]:
        """Create a raw file that other machines write, too."""
        self._make_folder()
        sink = SharedFileSink(self._paths[stream.disk_id], source.size)
        with self._writing(stream, source, sink, is_new=True) as name:
            yield name, sink

    @contextmanager
    def _writing(self, stream: Stream, source: Source, sink: _ImageSink, *, is_new: bool) -> Iterator[str]:
        path = self._paths[stream.disk_id]
        if isinstance(sink, ReusedQcow2Sink):
            self._open[stream.disk_id] = sink
        try:
            yield str(path)
        except BaseException:
            sink.abort()
            raise
        finally:
            self._open.pop(stream.disk_id, None)
        if is_new:
            self._made.append(path)
        if self._verifier is not None:
            image = (
                RawFileSource(path, size=source.size if path.is_block_device() else None)
                if self._format is ImageFormat.RAW
                else Qcow2FileSource(path)
            )
            with image:
                self._verifier.check_copy(stream.disk_id, printable(stream.name), source, image)

    def _opened(self, path: Path, size: int) -> tuple[_ImageSink, bool]:
        """Return the sink of one disk, and whether it creates a file."""
        found = self._reused(path)
        if found is None:
            if self._format is ImageFormat.QCOW2:
                return Qcow2FileSink(path, size), True
            return RawFileSink(
                path, size, overwrite_device=self._overwrite_device
            ), not path.is_block_device()
        reused = ReusedQcow2Sink if self._format is ImageFormat.QCOW2 else ReusedFileSink
        sink = reused(path, size)
        self._notify(f"reading {path}, which is called {sink.name_while_open} until it is complete")
        return sink, False

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
            raise PitrError(f"cannot create the folder {self._folder}: {error.strerror}") from error
        self._made_folder = True


@contextmanager
def _qcow2_disk(path: Path, size: int) -> Iterator[Source]:
    """Open at most `size` bytes of the disk in a qcow2 file."""
    with Qcow2FileSource(path) as image:
        yield Clipped(image, size)


def _free_bytes(path: Path) -> int | None:
    """Return the free bytes of the file system that a new file will be on; None for a block device."""
    if path.is_block_device():
        return None
    folder = path.absolute().parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize
