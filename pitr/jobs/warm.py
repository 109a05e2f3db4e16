# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask a store to bring back the data of a point from a cold storage class."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pitr.endpoints.points.cold import needed_blobs
from pitr.errors import UsageError
from pitr.model import Backup, Stream
from pitr.reporting import Notify
from pitr.repository import Repository, names
from pitr.repository.chain import resolve_chain
from pitr.repository.protection import locked_store, stored_name
from pitr.repository.store.s3 import S3Location
from pitr.system.cancellation import pause
from pitr.text import counted

if TYPE_CHECKING:
    from pitr.repository.store.versions import VersionedBucket

#: The storage classes from which data must be brought back before it can be read.
_COLD = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_LOOK_S = 30.0


class Tier(StrEnum):
    """How quickly the store brings data back, and at what price."""

    EXPEDITED = "Expedited"
    STANDARD = "Standard"
    BULK = "Bulk"


@dataclass(slots=True)
class Warmed:
    """The blobs that a point needs: `ready` can be read, `asked` were asked for now, `waiting` earlier."""

    ready: int = 0
    asked: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def is_ready(self) -> bool:
        return not self.asked and not self.waiting

    def as_document(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "ready": self.ready,
            "asked": self.asked,
            "waiting": self.waiting,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class _Blob:
    name: str
    size: int
    version: str | None


def warm(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    days: int,
    tier: Tier,
    *,
    wait: bool = False,
    dry_run: bool = False,
    notify: Notify = lambda line: None,
    sleep: Callable[[float], None] = pause,
) -> Warmed:
    """Ask for all cold blobs that these disks of the point need, for `days` days. `bytes` counts the cold ones.

    `wait` until all of them can be read. Raises UsageError for a repository in a folder, StoredDamage, and
    RepositoryError.
    """
    bucket = _bucket(repository)
    blobs = _blobs(repository, backup, streams)
    result = Warmed()
    for blob in blobs:
        state = _state(bucket, blob)
        if state == "ready":
            result.ready += 1
            continue
        result.bytes += blob.size
        if state == "waiting":
            result.waiting.append(blob.name)
            continue
        if not dry_run:
            bucket.warm(blob.name, days, tier.value, blob.version)
        result.asked.append(blob.name)
    if wait and not dry_run and not result.is_ready:
        _wait(
            bucket, [blob for blob in blobs if blob.name in {*result.asked, *result.waiting}], notify, sleep
        )
    return result


def _wait(
    bucket: VersionedBucket, blobs: Sequence[_Blob], notify: Notify, sleep: Callable[[float], None]
) -> None:
    started = time.monotonic()
    left = list(blobs)
    told = 0
    while True:
        left = [blob for blob in left if _state(bucket, blob) != "ready"]
        if not left:
            return
        if len(left) != told:
            minutes = round((time.monotonic() - started) / 60)
            notify(f"waiting for {counted(len(left), 'blob')} since {counted(minutes, 'minute')}")
            told = len(left)
        sleep(_LOOK_S)


def _bucket(repository: Repository) -> VersionedBucket:
    if not isinstance(repository.location, S3Location):
        raise UsageError(
            "the repository is in a folder, where no data is cold", "Name a repository on S3 with --repo."
        )
    from pitr.repository.store.versions import VersionedBucket  # noqa: PLC0415 - boto3 is an extra

    store = locked_store(repository)
    return store.bucket if store is not None else VersionedBucket(repository.location)


def _blobs(repository: Repository, backup: Backup, streams: Sequence[Stream]) -> list[_Blob]:
    store = locked_store(repository)
    found: dict[str, _Blob] = {}
    for stream in streams:
        for _, used in needed_blobs(resolve_chain(repository, backup, stream)):
            if used.blob is None or not repository.is_here(used):
                continue
            name = stored_name(repository, names.blob(used.disk_id, used.stream_id))
            version = store.true_version(name).id if store is not None else None
            found[name] = _Blob(name, used.stored_bytes, version)
    return list(found.values())


def _state(bucket: VersionedBucket, blob: _Blob) -> str:
    head = bucket.head(blob.name, blob.version)
    restored = str(head.get("Restore") or "")
    if 'ongoing-request="true"' in restored:
        return "waiting"
    archived = head.get("StorageClass") in _COLD or bool(head.get("ArchiveStatus"))
    return "cold" if archived and 'ongoing-request="false"' not in restored else "ready"
