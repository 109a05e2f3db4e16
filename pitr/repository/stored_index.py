# SPDX-License-Identifier: GPL-2.0-or-later
"""Stored extent indexes, compared with their record before anything in them is used."""

from __future__ import annotations

import logging
from pathlib import Path

from blake3 import blake3

from pitr.errors import FormatError
from pitr.model import Backup, StoredObject, Stream
from pitr.repository import names
from pitr.repository.damage import StoredDamage, compare_size, of_stream
from pitr.repository.index import Index, StreamRow, parts_of
from pitr.repository.repository import Repository
from pitr.repository.store import ObjectMissing

_log = logging.getLogger(__name__)
_CHUNK = 1 << 22


def opened_index(repository: Repository, backup: Backup, stream: Stream, *, second: bool) -> Index:
    """Open an extent index, or its `second` copy; the caller closes it. Raises StoredDamage, NoFittingIdentity."""
    if repository.path != repository.location and repository.keyring is None:
        path = _local_copy(repository, backup, stream, second=second)
    else:
        path = repository.store.local_file(check_index(repository, backup, stream, second=second))
    try:
        opened = Index(path)
    except FormatError as error:
        raise of_stream(backup.backup_id, stream, "corrupt", "index", error.message) from None
    expected = StreamRow(
        stream_id=stream.stream_id,
        backup_id=backup.backup_id,
        disk_id=stream.disk_id,
        kind=stream.kind.value,
        size=stream.size,
        parent_stream_id=stream.parent_stream_id,
        frame_size=stream.frame_size,
    )
    if opened.stream != expected or opened.parts != parts_of(stream):
        opened.close()
        raise of_stream(backup.backup_id, stream, "inconsistent", "index", "it belongs to another stream")
    return opened


def opened_good_index(repository: Repository, backup: Backup, stream: Stream) -> Index:
    """Open an extent index, or its second copy if it is damaged. Raises StoredDamage, NoFittingIdentity."""
    try:
        return opened_index(repository, backup, stream, second=False)
    except StoredDamage as error:
        if stream.index_copy is None:
            raise
        try:
            opened = opened_index(repository, backup, stream, second=True)
        except StoredDamage:
            raise error from None
        _log.warning("%s: pitr reads its second copy", error.message)
        return opened


def _local_copy(repository: Repository, backup: Backup, stream: Stream, *, second: bool) -> Path:
    """Return the path of a local copy of an index in a bucket, compared with the record. This takes one request."""
    name, recorded = _recorded(stream, second=second)
    try:
        path = repository.store.local_file(name)
    except ObjectMissing:
        raise of_stream(backup.backup_id, stream, "missing", "index", "it is missing") from None
    if blake3(path.read_bytes()).hexdigest() == recorded.digest:
        return path
    # Is the copy bad, or the object?
    check_index(repository, backup, stream, second=second)
    path.unlink()
    return repository.store.local_file(name)


def _recorded(stream: Stream, *, second: bool) -> tuple[str, StoredObject]:
    """Return the name of an index, or of its `second` copy, and its size and digest as in the record."""
    if second:
        name, recorded = names.index_copy(stream.disk_id, stream.stream_id), stream.index_copy
    else:
        name, recorded = names.index(stream.disk_id, stream.stream_id), stream.index
    if recorded is None:
        raise ValueError(f"the index of stream {stream.stream_id} is stored once")
    return name, recorded


def check_index(repository: Repository, backup: Backup, stream: Stream, *, second: bool = False) -> str:
    """Compare size and digest of an extent index, or of its `second` copy, with the record. Return its name.

    Raises StoredDamage.
    """
    name, recorded = _recorded(stream, second=second)
    with repository.open_object(backup, stream, "index", name) as file:
        compare_size(backup, stream, "index", file.size, recorded.size)
        digest = blake3()
        for offset in range(0, file.size, _CHUNK):
            digest.update(file.read_at(offset, _CHUNK))
    if digest.hexdigest() != recorded.digest:
        raise of_stream(backup.backup_id, stream, "corrupt", "index", "its digest does not match")
    return name
