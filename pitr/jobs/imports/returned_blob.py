# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of an externally stored blob: its point can be restored from the repository again.

The record stays unchanged: it holds the size and the digest of the blob. pitr stores exactly these bytes, under the
name that the blob would have had.
"""

from __future__ import annotations

from typing import BinaryIO

from blake3 import blake3

from pitr.errors import FormatError, NoSuchPoint, RepositoryError, UsageError
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository, names
from pitr.repository.blob import FRAME_SIZE
from pitr.repository.catalog import Catalog
from pitr.system import rate_limit


def find_external(catalog: Catalog, stream_id: str) -> tuple[Backup, Stream] | None:
    """Return the externally stored stream with this id and its backup; None if there is none."""
    backup = catalog.owner_of(stream_id)
    if backup is None:
        return None
    for stream in backup.streams:
        if stream.stream_id == stream_id and stream.external is not None:
            return backup, stream
    return None


def store_external(
    repository: Repository, backup: Backup, stream: Stream, blob: BinaryIO, progress: Progress | None = None
) -> None:
    """Store the bytes of an external blob in the repository. The caller closes `blob`.

    An error stores nothing. Raises FormatError if the bytes do not match the record, UsageError if the blob is in
    the repository already or was stored without compression, BusyError.
    """
    if stream.external != "zstd":
        raise UsageError(
            f"the blob of stream {stream.stream_id} was stored without compression, but the repository holds only "
            "zstd frames",
            "Restore from the external blob: pitr restore --get-command 'cat FILE'.",
        )
    with repository.lock_vm(backup.vm):
        _check_still_missing(repository, backup, stream)
        digest, size = blake3(), 0
        with repository.store.new(names.blob(stream.disk_id, stream.stream_id)) as new:
            while size <= stream.own_blob.size and (part := blob.read(FRAME_SIZE)):
                rate_limit.spend(len(part))
                digest.update(part)
                new.write(part)
                size += len(part)
                if progress is not None:
                    progress(min(size, stream.own_blob.size), stream.own_blob.size)
            if size != stream.own_blob.size or digest.hexdigest() != stream.own_blob.digest:
                raise _mismatch(backup, stream, size)
            new.commit()


def _check_still_missing(repository: Repository, backup: Backup, stream: Stream) -> None:
    if repository.catalog.get(backup.backup_id) != backup:
        raise NoSuchPoint(f"the point of backup {backup.backup_id} has just been removed")
    # The catalog alone is no proof: the record may be lost, or may differ.
    if repository.record_of(backup.backup_id) != backup:
        raise RepositoryError(
            f"the catalog and the record of backup {backup.backup_id} differ",
            "Run 'pitr catalog check'.",
        )
    if repository.is_here(stream):
        raise UsageError(
            f"the blob of stream {stream.stream_id} (backup {backup.backup_id}) is in the repository already"
        )


def _mismatch(backup: Backup, stream: Stream, size: int) -> FormatError:
    recorded = stream.own_blob.size
    reason = (
        f"there are {size} bytes instead of {recorded}"
        if size < recorded
        else f"there are more than {recorded} bytes"
        if size > recorded
        else "their digest differs"
    )
    return FormatError(
        f"these are not the bytes that pitr piped out as stream {stream.stream_id} (backup {backup.backup_id}): "
        f"{reason}",
        "Give the blob as pitr piped it out: neither decompressed nor compressed again.",
    )
