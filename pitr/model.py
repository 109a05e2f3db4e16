# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository holds, as values: points, streams and the objects that store them.

Sizes and lengths are bytes, times are aware datetimes in UTC, digests are BLAKE3 (32 bytes as 64 hex digits).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """Of a stream or a backup. A backup is incremental when any of its streams is."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SYNTHETIC = "synthetic"


class Mode(StrEnum):
    """How the engine took a backup; "imported": pitr took it in from elsewhere."""

    LIVE = "live"
    COLD = "cold"
    HYBRID = "hybrid"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in the store, as the record says: its size and the digest of its bytes."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """How a disk was set up on the engine, for making one like it."""

    format: str = "cow"
    sparse: bool = True
    interface: str | None = None
    bootable: bool = False
    active: bool = True
    backup_enabled: bool = True
    storage_domain_id: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """One disk in one backup.

    `extents` counts the rows of the extent index; `parent_stream_id` is the stream that an incremental stands on.
    `note` says what the source of an imported stream could not tell. `external` is None for a blob that went into
    the repository, else how the blob was piped out: "zstd" (frames, as in the repository) or "none" (not compressed).
    """

    stream_id: str
    disk_id: str
    name: str
    kind: Kind
    reason: str | None
    size: int
    parent_stream_id: str | None
    frame_size: int
    data_bytes: int
    zero_bytes: int
    extents: int
    blob: StoredObject
    index: StoredObject
    settings: DiskSettings
    note: str | None = None
    external: str | None = None

    @property
    def stored_bytes(self) -> int:
        return self.blob.size


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disk of the VM that a backup does not hold, and why."""

    disk_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class VMName:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Backup:
    """One VM at one point in time. The VM's state that it holds is of a moment in `[lo, point]`."""

    backup_id: str
    vm: VMName
    kind: Kind
    reason: str | None
    point: datetime
    lo: datetime
    parent_id: str | None
    checkpoint_id: str | None
    from_checkpoint_id: str | None
    mode: Mode
    consistency: str
    streams: tuple[Stream, ...]
    left_out: tuple[LeftOut, ...]
    duration_ms: int
    pitr_version: str

    @property
    def stored_bytes(self) -> int:
        return sum(stream.stored_bytes for stream in self.streams)

    def stream_of(self, disk_id: str) -> Stream | None:
        return next((stream for stream in self.streams if stream.disk_id == disk_id), None)


@dataclass(frozen=True, slots=True)
class Record:
    """What a commit record holds: the backup, and the VM's configuration (OVF), None when the engine gave none."""

    backup: Backup
    configuration: str | None
