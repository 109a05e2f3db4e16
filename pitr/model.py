# SPDX-License-Identifier: GPL-2.0-or-later
"""The values of a repository: backups, streams and stored objects. Terms as in the glossary of docs/design.md.

Sizes and lengths are bytes. Times are aware datetimes in UTC. Digests are BLAKE3 (32 bytes as 64 hex digits).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """The kind of a stream or a backup. A backup is incremental if at least one of its streams is."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SYNTHETIC = "synthetic"


class Mode(StrEnum):
    """How the engine took a backup; "imported" for a backup that `pitr import` created from other streams."""

    LIVE = "live"
    COLD = "cold"
    HYBRID = "hybrid"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The size and digest of an object in the store, as the record states them."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """A stream whose frames another stream uses: `live_bytes` of the disk lie in its blob."""

    disk_id: str
    stream_id: str
    live_bytes: int
    blob: StoredObject


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """The settings of a disk on the engine and in its VM, used to create a disk like it.

    The settings from `description` on are the engine's defaults unless a record has them.
    """

    format: str = "cow"
    sparse: bool = True
    interface: str | None = None
    bootable: bool = False
    active: bool = True
    backup_enabled: bool = True
    storage_domain_id: str | None = None
    description: str | None = None
    disk_profile_id: str | None = None
    wipe_after_delete: bool = False
    propagate_errors: bool = False
    read_only: bool = False
    pass_discard: bool = False
    uses_scsi_reservation: bool = False

    @property
    def more(self) -> dict[str, str | bool]:
        """The settings from `description` on that are not the engine's defaults, by name."""
        return {name: value for name in MORE_SETTINGS if (value := getattr(self, name))}


#: The settings that early versions of pitr do not know.
MORE_SETTINGS = (
    "description",
    "disk_profile_id",
    "wipe_after_delete",
    "propagate_errors",
    "read_only",
    "pass_discard",
    "uses_scsi_reservation",
)


@dataclass(frozen=True, slots=True)
class Stream:
    """One disk in one backup.

    `reason` says why the stream is a full. `parent_stream_id` names the stream that an incremental is based on; a
    full has none. `frame_size` is the largest length of a frame on the disk. `extents` counts the rows of the extent
    index. `note` names the limits of an imported stream's source. `external` is None if the blob was written to the
    repository. For a blob stored externally it is the compression: "zstd" (frames, as in the repository) or "none".
    `changes` says how the changes of an incremental were found: "tracked" by the engine, or "compared" by pitr with
    the stored data. `parts` are the streams in whose blobs its frames are; without parts they are all in its own. A
    stream of parts may have no own `blob`, and its index is stored twice (`index_copy`).
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
    blob: StoredObject | None
    index: StoredObject
    settings: DiskSettings
    note: str | None = None
    external: str | None = None
    changes: str | None = None
    parts: tuple[Part, ...] = ()
    index_copy: StoredObject | None = None

    @property
    def stored_bytes(self) -> int:
        """Size of its own blob."""
        return 0 if self.blob is None else self.blob.size

    @property
    def own_blob(self) -> StoredObject:
        """Its own blob. Raises ValueError for a stream that has none."""
        if self.blob is None:
            raise ValueError(f"the stream {self.stream_id} has no blob of its own")
        return self.blob


class Cause(StrEnum):
    """Why a backup does not include a disk: someone chose it, pitr or the engine is unable, or its data is missing.

    A disk that is unable to be backed up does not make a point incomplete.
    """

    CHOSEN = "chosen"
    UNABLE = "unable"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disk of the VM that the backup does not include, and the reason."""

    disk_id: str
    name: str
    reason: str
    cause: Cause = Cause.UNABLE


@dataclass(frozen=True, slots=True)
class VMName:
    """A VM's id, and its name at the time of a backup."""

    id: str
    name: str


class SealedName(str):
    """An id in the place of a name that is sealed to this process. An id can also be a name."""

    __slots__ = ()


def known_name(name: str) -> str | None:
    """Return a name; None if it is sealed."""
    return None if isinstance(name, SealedName) else name


@dataclass(frozen=True, slots=True)
class Backup:
    """One VM in one run, with all disks: the point that you can restore to.

    The disks are as they were at one moment in `[lo, point]`. `parent_id` names the backup that the incremental
    streams are based on. `checkpoint_id` is the checkpoint that this backup created on the engine, and
    `from_checkpoint_id` the checkpoint since which its incremental streams hold the changes. A synthetic backup may
    stand for another one, `stands_for`: it has the same disks at the same time. `configuration` is the object with the
    VM's OVF.
    """

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
    stands_for: str | None = None
    configuration: StoredObject | None = None

    @property
    def stored_bytes(self) -> int:
        """Size of all blobs."""
        return sum(stream.stored_bytes for stream in self.streams)

    @property
    def streams_of_its_kind(self) -> tuple[Stream, ...]:
        """The streams without those that are full in an incremental backup, which say nothing about changes."""
        return tuple(stream for stream in self.streams if stream.kind is self.kind)

    @property
    def missing_disks(self) -> tuple[LeftOut, ...]:
        """The disks of the VM that a backup could include, but this one does not."""
        return tuple(disk for disk in self.left_out if disk.cause is not Cause.UNABLE)

    @property
    def is_complete(self) -> bool:
        """Whether the backup includes all disks of the VM that can be backed up."""
        return not self.missing_disks

    @property
    def known_as(self) -> str:
        """The id by which later backups name this one: its own, or that of the backup it stands for."""
        return self.stands_for or self.backup_id

    def stream_of(self, disk_id: str) -> Stream | None:
        """Return the stream of the disk; None if the backup does not include the disk."""
        return next((stream for stream in self.streams if stream.disk_id == disk_id), None)


def parents_of(backups: Iterable[Backup]) -> dict[str, str | None]:
    """Return the id of the backup that each of these is based on, by its own id.

    Where the parent is not among them, the synthetic backup that stands for it takes its place.
    """
    known = {backup.backup_id: backup for backup in backups}
    standing: dict[str | None, str | None] = {
        backup.stands_for: backup.backup_id for backup in known.values() if backup.stands_for is not None
    }
    return {
        backup_id: backup.parent_id
        if backup.parent_id in known
        else standing.get(backup.parent_id, backup.parent_id)
        for backup_id, backup in known.items()
    }


@dataclass(frozen=True, slots=True)
class Record:
    """A backup to commit, and the VM's OVF, which is stored beside its record; None without one."""

    backup: Backup
    configuration: str | None
