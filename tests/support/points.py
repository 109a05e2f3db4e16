# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as text that a person can read, and repositories made of them.

`"64k:A 64k:- 128k:0"` is 64 KiB of the letter A, 64 KiB unchanged and 128 KiB of zeroes. Sizes take k, m, g or
nothing (bytes).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pitr import times
from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink, MemorySource
from pitr.endpoints.points.point import open_point
from pitr.extents import ExtentMap
from pitr.model import Backup, DiskSettings, Kind, LeftOut, Mode, Record, StoredObject, Stream, VMName
from pitr.repository import Repository
from pitr.repository.blob import FRAME_SIZE
from pitr.repository.store import Store
from pitr.repository.stream_sink import NewStream, StreamSink

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

VM = VMName("11111111-0000-4000-8000-000000000001", "web")
DISK_ID = "22222222-0000-4000-8000-000000000001"
FIRST_POINT = datetime(2020, 6, 29, 22, tzinfo=UTC)


def size_of(text: str) -> int:
    """ "64k" in bytes."""
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def disk(text: str) -> tuple[bytearray, ExtentMap]:
    """The content of a disk, unchanged ranges as zeroes, and its extents."""
    content = bytearray()
    rows: list[tuple[int, int, bool]] = []
    for part in text.split():
        length_text, _, what = part.partition(":")
        length = size_of(length_text)
        if what != "-":
            rows.append((len(content), length, what == "0"))
        content += bytes(length) if what in "-0" else what.encode() * length
    return content, ExtentMap.of(rows)


def source(text: str) -> MemorySource:
    content, extents = disk(text)
    return MemorySource(content, extents)


def applied(before: bytes | bytearray, text: str) -> bytearray:
    """What a disk that held `before` holds after the changes in `text`, which also say how long it is."""
    content, extents = disk(text)
    after = bytearray(before[: len(content)]).ljust(len(content), b"\0")
    for start, length, _ in extents:
        after[start : start + length] = content[start : start + length]
    return after


def settings() -> DiskSettings:
    return DiskSettings(interface="virtio_scsi", bootable=True, storage_domain_id=str(uuid.uuid4()))


def new_stream(
    *, backup_id: str = "", disk_id: str = DISK_ID, name: str = "system", parent: str | None = None
) -> NewStream:
    kind = Kind.FULL if parent is None else Kind.INCREMENTAL
    return NewStream(
        stream_id=str(uuid.uuid4()),
        backup_id=backup_id or str(uuid.uuid4()),
        disk_id=disk_id,
        name=name,
        kind=kind,
        reason=None,
        parent_stream_id=parent,
        settings=settings(),
    )


def meta_of(new: NewStream, size: int) -> dict[str, object]:
    return {
        "virtual-size": size,
        "data-size": 0,
        "date": "2020-06-29T22:00:00Z",
        "incremental": new.kind is Kind.INCREMENTAL,
        "stream-id": new.stream_id,
        "parent-stream-id": new.parent_stream_id,
        "backup-id": new.backup_id,
        "disk-id": new.disk_id,
        "disk-name": new.name,
        "vm-id": VM.id,
        "vm-name": VM.name,
    }


def store_stream(
    store: Store,
    disk_source: MemorySource,
    new: NewStream,
    *,
    frame_size: int = FRAME_SIZE,
    workers: int = 2,
) -> Stream:
    """Write a source as a new stream through the copy engine."""
    size = disk_source.size
    with StreamSink(store, new, size, meta_of(new, size), level=1, frame_size=frame_size) as sink:
        copy(disk_source, sink, workers=workers)
    return sink.stream


def read_point(repository: Repository, backup: Backup, stream: Stream, *, workers: int = 2) -> bytearray:
    """The whole disk at a point, through the copy engine."""
    with open_point(repository, backup, stream) as point:
        sink = MemorySink(point.size)
        copy(point, sink, workers=workers)
    return sink.content


class Writer:
    """Writes backups of one VM into a repository, an hour apart, each on the one before."""

    def __init__(self, repository: Repository, vm: VMName = VM) -> None:
        self.repository = repository
        self.vm = vm
        self.backups: list[Backup] = []

    def add(
        self,
        *disks: str,
        full: bool = False,
        frame_size: int = FRAME_SIZE,
        point: datetime | None = None,
        commit: bool = True,
    ) -> Backup:
        """Store and commit a backup of these disks; incremental unless it is the first or `full`."""
        parent = self.backups[-1] if self.backups and not full else None
        backup_id = str(uuid.uuid4())
        streams: list[Stream] = []
        for number, text in enumerate(disks):
            new = new_stream(
                backup_id=backup_id,
                disk_id=disk_id(number),
                name=f"disk{number}",
                parent=parent.streams[number].stream_id if parent else None,
            )
            streams.append(store_stream(self.repository.store, source(text), new, frame_size=frame_size))
        backup = backup_of(
            streams,
            backup_id=backup_id,
            vm=self.vm,
            point=point or FIRST_POINT + timedelta(hours=len(self.backups)),
            parent_id=parent.backup_id if parent else None,
        )
        return self.commit(backup) if commit else backup

    def commit(self, backup: Backup) -> Backup:
        """Commit a stored backup; the next one is based on it."""
        self.backups.append(self.repository.commit(Record(backup, "<ovf:Envelope/>")))
        return self.backups[-1]


def written(repository: Repository, story: Sequence[tuple[str, bool]]) -> list[Backup]:
    """A backup for each step: a disk as text, and whether it is a full. Frames are of 64 KiB."""
    writer = Writer(repository)
    for text, full in story:
        writer.add(text, full=full, frame_size=1 << 16)
    return writer.backups


def disk_id(number: int) -> str:
    return f"22222222-0000-4000-8000-{number + 1:012}"


def backup_of(
    streams: Sequence[Stream] = (),
    *,
    backup_id: str = "",
    vm: VMName = VM,
    point: datetime = FIRST_POINT,
    parent_id: str | None = None,
) -> Backup:
    kind = Kind.FULL if parent_id is None else Kind.INCREMENTAL
    return Backup(
        backup_id=backup_id or str(uuid.uuid4()),
        vm=vm,
        kind=kind,
        reason="asked for" if kind is Kind.FULL else None,
        point=point,
        lo=point - timedelta(seconds=2),
        parent_id=parent_id,
        checkpoint_id=str(uuid.uuid4()),
        from_checkpoint_id=None,
        mode=Mode.LIVE,
        consistency="unknown",
        streams=tuple(streams),
        left_out=(LeftOut("33333333-0000-4000-8000-000000000001", "lun \x1b[31m", "no image"),),
        duration_ms=1234,
        pitr_version="0.1",
    )


def fake_stream(number: int = 0, *, parent: str | None = None, name: str = "system") -> Stream:
    """A stream that is in a record only."""
    return Stream(
        stream_id=str(uuid.uuid4()),
        disk_id=disk_id(number),
        name=name,
        kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
        reason=None,
        size=1 << 20,
        parent_stream_id=parent,
        frame_size=FRAME_SIZE,
        data_bytes=4096,
        zero_bytes=(1 << 20) - 4096,
        extents=2,
        blob=StoredObject(1234, "ab" * 32),
        index=StoredObject(8192, "cd" * 32),
        settings=settings(),
    )


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a stored file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def record_path(repository: Repository, backup: Backup) -> Path:
    name = f"{times.to_object_name(backup.point)}-{backup.backup_id}.json"
    return repository.path / "backups" / backup.vm.id / name


def blob_path(repository: Repository, stream: Stream) -> Path:
    return repository.path / "blobs" / stream.disk_id / f"{stream.stream_id}.sparse.zst"


def index_path(repository: Repository, stream: Stream) -> Path:
    return repository.path / "indexes" / stream.disk_id / f"{stream.stream_id}.index.db"
