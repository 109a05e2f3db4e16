# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing back: a blob that was piped out comes home, and its point is restorable from the repository again.

The record stays as it is: it says what was piped out, byte for byte. Only these bytes are taken, under the name that
the blob would have had.
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


def piped_out(catalog: Catalog, stream_id: str) -> tuple[Backup, Stream] | None:
    """The stream with this id whose blob was piped out, and its backup."""
    for backup in catalog.points():
        for stream in backup.streams:
            if stream.stream_id == stream_id and stream.external is not None:
                return backup, stream
    return None


def bring_back(
    repository: Repository, backup: Backup, stream: Stream, blob: BinaryIO, progress: Progress | None = None
) -> None:
    """Take the bytes of a blob that was piped out into the repository. The caller closes `blob`.

    Raises FormatError where they are not the bytes that the record tells of, UsageError where the blob is here
    already or was piped out without compression, BusyError; nothing is kept then.
    """
    if stream.external != "zstd":
        raise UsageError(
            f"the blob of stream {stream.stream_id} was piped out without compression: the repository holds zstd "
            "frames only",
            "Restore it from where it is: pitr restore --get-command 'cat FILE'.",
        )
    with repository.lock_vm(backup.vm):
        if repository.catalog.get(backup.backup_id) != backup:
            raise NoSuchPoint(f"the point of backup {backup.backup_id} has just been removed")
        # What the catalog says of the blob is not enough: its record may be lost, or say otherwise.
        if repository.record_of(backup.backup_id).backup != backup:
            raise RepositoryError(
                f"the catalog and the record of backup {backup.backup_id} do not agree",
                "See 'pitr catalog check'.",
            )
        if repository.is_here(stream):
            raise UsageError(
                f"the blob of stream {stream.stream_id} (backup {backup.backup_id}) is in the repository already"
            )
        digest, size = blake3(), 0
        with repository.store.new(names.blob(stream.disk_id, stream.stream_id)) as new:
            while size <= stream.blob.size and (part := blob.read(FRAME_SIZE)):
                digest.update(part)
                new.write(part)
                size += len(part)
                if progress is not None:
                    progress(min(size, stream.blob.size), stream.blob.size)
            if size != stream.blob.size or digest.hexdigest() != stream.blob.digest:
                raise _other_bytes(backup, stream, size)
            new.commit()


def _other_bytes(backup: Backup, stream: Stream, size: int) -> FormatError:
    recorded = stream.blob.size
    what = (
        f"there are {size} bytes instead of {recorded}"
        if size < recorded
        else f"there are more than {recorded} bytes"
        if size > recorded
        else "their digest is another one"
    )
    return FormatError(
        f"these are not the bytes of stream {stream.stream_id} (backup {backup.backup_id}) that were piped out: {what}",
        "Give the blob as it was piped out, neither decompressed nor packed again.",
    )
