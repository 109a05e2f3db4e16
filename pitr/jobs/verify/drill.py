# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a restore drill: restore a point to temporary images, check them, and return the findings.

pitr restores the point to temporary qcow2 images, or only reads it. In both cases it decompresses every frame and
compares its digest. It reads the images back, compares checksums, and checks them with qemu-img, and ext file systems
with e2fsck.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import orjson

from pitr import times
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Reader, Sink, Source
from pitr.endpoints.images.discarding import DiscardingSink
from pitr.endpoints.images.qcow2_file import Qcow2FileSource
from pitr.endpoints.points.point import PointSource, open_point
from pitr.errors import DamageError, PitrError, ProgramFailed
from pitr.extents import ExtentMap
from pitr.guest import partitions
from pitr.guest.partitions import Layout, Partition
from pitr.jobs.restore.choice import ImageFormat, ToFiles
from pitr.jobs.restore.from_repository import restore
from pitr.jobs.restore.selection import DiskSelection
from pitr.jobs.restore.to_files import FilesTarget
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.drills import DIGESTS, DiskFindings, Drill, Finding
from pitr.system.process import find_program, require, run
from pitr.text import counted
from pitr.units import human_size

#: Debian keeps the file system tools in folders that are only on root's PATH.


def drill(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    *,
    folder: Path | None = None,
    digests_only: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Drill:
    """Run a restore drill of these disks and return the findings; no files are left.

    The images go to a new folder in `folder` (None: the system's temporary folder). `digests_only` only reads the
    point. Damage is a finding. Raises PitrError if the folder has too little space, ProgramMissing.
    """
    started_at = time.monotonic()
    if digests_only:
        disks = read_only(repository, backup, streams, workers, progress)
    else:
        require("qemu-img", "qemu-nbd")
        with tempfile.TemporaryDirectory(prefix="pitr-drill-", dir=folder) as scratch:
            disks = _with_images(repository, backup, streams, Path(scratch), workers, progress)
    return result_of(backup, disks, started_at, image=not digests_only)


def result_of(backup: Backup, disks: Sequence[DiskFindings], started_at: float, *, image: bool) -> Drill:
    """Return the result of a drill that began at this value of the monotonic clock."""
    return Drill(
        backup_id=backup.backup_id,
        vm_id=backup.vm.id,
        time=times.now(),
        image=image,
        duration_ms=round((time.monotonic() - started_at) * 1000),
        disks=tuple(disks),
    )


def read_only(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    workers: int,
    progress: Progress | None,
) -> list[DiskFindings]:
    """Read all data of these disks, compare its digests, and return the findings."""
    selection = DiskSelection(repository, backup, tuple(streams), check="drill")
    return findings_of(selection, lambda: restore(selection, _Nowhere(), workers=workers, progress=progress))


def findings_of(selection: DiskSelection, read: Callable[[], object]) -> list[DiskFindings]:
    """Return the findings about these disks after `read` has read all their data, or raised StoredDamage."""
    repository, backup, streams = selection.repository, selection.backup, selection.streams
    try:
        read()
    except StoredDamage as error:
        return damaged(streams, error)
    disks = []
    for stream in streams:
        disks.append(_findings(stream, [_digests(stream), *partitions_of(repository, backup, stream)]))
    return disks


def partitions_of(repository: Repository, backup: Backup, stream: Stream) -> list[Finding]:
    """Return the findings about the partition table and the file systems of a disk. Raises StoredDamage, UsageError."""
    with open_point(repository, backup, stream) as source:
        return list(_described(_layout(source)))


def _with_images(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    scratch: Path,
    workers: int,
    progress: Progress | None,
) -> list[DiskFindings]:
    target = FilesTarget(ToFiles(f"{scratch}/", ImageFormat.QCOW2), streams, verifier=Verifier(workers))
    _check_space(repository, backup, streams, scratch)
    try:
        restored = restore(
            DiskSelection(repository, backup, tuple(streams), check="drill"),
            target,
            workers=workers,
            progress=progress,
        )
    except StoredDamage as error:
        return damaged(streams, error)
    except DamageError as error:
        return [_findings(stream, [Finding("checksum", False, error.message)]) for stream in streams]
    disks = []
    for stream, done in zip(streams, restored, strict=True):
        image = Path(done.target or "")
        findings = [
            _digests(stream),
            Finding("checksum", True, "the image has the checksum of the point"),
            _qemu_check(image),
        ]
        with Qcow2FileSource(image) as source:
            layout = _layout(source)
        findings += _described(layout)
        findings += [_fsck(image, part, scratch) for part in layout.parts if part.content == "ext"]
        disks.append(_findings(stream, findings))
        image.unlink()
    return disks


def _check_space(repository: Repository, backup: Backup, streams: Sequence[Stream], scratch: Path) -> None:
    needed = 0
    with suppress(StoredDamage):
        for stream in streams:
            with open_point(repository, backup, stream) as source:
                needed += source.extents().data_bytes
    free = shutil.disk_usage(scratch).free
    if free < needed:
        raise PitrError(
            f"the images need up to {human_size(needed)}, and {scratch.parent} has {human_size(free)} free",
            "Name another folder with --in, or use --digests-only.",
        )


# Findings


def _findings(stream: Stream, findings: Sequence[Finding]) -> DiskFindings:
    return DiskFindings(stream.disk_id, stream.name, tuple(findings))


def _digests(stream: Stream) -> Finding:
    return Finding(DIGESTS, True, f"all data of {human_size(stream.size)} matches the digests of the record")


def damaged(streams: Sequence[Stream], error: StoredDamage) -> list[DiskFindings]:
    """Return the findings of a drill that damage has ended."""
    lost = Finding(DIGESTS, False, error.message)
    unknown = Finding(DIGESTS, None, "not completely read: another disk is damaged")
    of_all = all(stream.disk_id != error.damage.disk_id for stream in streams)
    return [
        _findings(stream, [lost if of_all or stream.disk_id == error.damage.disk_id else unknown])
        for stream in streams
    ]


def _described(layout: Layout) -> Iterator[Finding]:
    if layout.table is not None:
        yield Finding(
            "partitions", True, f"a {layout.table.upper()} with {counted(len(layout.parts), 'partition')}"
        )
    known = [part for part in layout.parts if part.content is not None]
    for part in known:
        yield Finding("content", True, f"{_place(part)}: {part.content}, {human_size(part.length)}")
    if layout.table is None and not known:
        yield Finding("content", None, "no known partition table or file system found")


def _place(part: Partition) -> str:
    return f"partition {part.number}" if part.number else "the whole disk"


def _qemu_check(image: Path) -> Finding:
    try:
        report = orjson.loads(run(["qemu-img", "check", "--output=json", "-f", "qcow2", str(image)]))
    except ProgramFailed as error:
        return Finding("qemu-img check", False, error.message)
    problems = report.get("check-errors", 0) + report.get("corruptions", 0) + report.get("leaks", 0)
    return Finding("qemu-img check", problems == 0, counted(problems, "error") if problems else "no errors")


def _fsck(image: Path, part: Partition, scratch: Path) -> Finding:
    """Check an ext file system with e2fsck, in a copy: e2fsck replays the journal of a disk that was in use."""
    what = f"e2fsck, {_place(part)}"
    program = find_program("e2fsck")
    if program is None:
        return Finding(what, None, "e2fsck is not installed")
    copy = scratch / "file-system.raw"
    description = {
        "driver": "raw",
        "offset": part.start,
        "size": part.length,
        "file": {"driver": "qcow2", "file": {"driver": "file", "filename": str(image)}},
    }
    try:
        run(["qemu-img", "convert", "-O", "raw", f"json:{orjson.dumps(description).decode()}", str(copy)])
        with suppress(ProgramFailed):
            run([program, "-p", "-E", "journal_only", str(copy)])
        run([program, "-fn", str(copy)])
    except ProgramFailed as error:
        return Finding(what, False, error.message)
    finally:
        copy.unlink(missing_ok=True)
    return Finding(what, True, "the file system is clean")


# Reading and writing


def _layout(source: PointSource | Qcow2FileSource) -> Layout:
    extents = source.extents()
    with source.open_reader() as reader:
        return partitions.look_at(_DiskBytes(reader, extents).read, source.size)


class _DiskBytes:
    """The bytes of a disk at any offset, with zeroes where it has no data."""

    def __init__(self, reader: Reader, extents: ExtentMap) -> None:
        self._reader = reader
        self._extents = extents

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        end = offset + length
        part = self._extents.between(offset, end)
        for start, count, zero in zip(
            part.start.tolist(), part.length.tolist(), part.zero.tolist(), strict=True
        ):
            if not zero:
                self._reader.read_ranges([(start, count)], view[start - offset : start - offset + count])
        return bytes(data)


class _Nowhere:
    """A restore target that discards all data. Reading the data already compares its digests."""

    vm_id: str | None = None

    def reads_zero(self, stream: Stream) -> bool:
        return True

    def present(self, stream: Stream) -> AbstractContextManager[None]:
        return nullcontext()

    def expected_name(self, stream: Stream) -> str | None:
        return None

    def prepare(self) -> None:
        pass

    @contextmanager
    def sink(self, stream: Stream, source: Source) -> Iterator[tuple[str, Sink]]:
        yield "", DiscardingSink()

    def finish(self) -> None:
        pass

    def undo(self) -> None:
        pass
