# SPDX-License-Identifier: GPL-2.0-or-later
"""Stored extent indexes, compared with their record before anything in them is used."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, StoredObject, Stream
from pitr.repository import names, sqlite
from pitr.repository.damage import StoredDamage, compare_size, of_stream
from pitr.repository.index import Index, StreamRow, parts_of
from pitr.repository.repository import Repository
from pitr.repository.store import KeepsCopies, ObjectMissing, ObjectStoreError
from pitr.system.closing import Closes

_log = logging.getLogger(__name__)
_CHUNK = 1 << 22
#: An index of up to this size is read at once.
_SMALL = 1 << 20


def opened_index(repository: Repository, backup: Backup, stream: Stream, *, second: bool) -> Index:
    """Open an extent index, or its `second` copy; the caller closes it. Raises StoredDamage, NoFittingIdentity."""
    if repository.path != repository.location and repository.keyring is None:
        path = _local_copy(repository, backup, stream, second=second)
    else:
        path = repository.store.local_file(check_index(repository, backup, stream, second=second))
    return _fitting(backup, stream, path)


def _fitting(
    backup: Backup, stream: Stream, path: Path, connection: sqlite3.Connection | None = None
) -> Index:
    """Open an index whose bytes are good, and check that it is the stream's. Raises StoredDamage."""
    try:
        opened = Index(path, connection)
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


class ManyIndexes(Closes):
    """Opens one index after the other, for checks of all of them. Each thread opens only one at once.

    SQLite needs four times as long to open a file as to read a small index, so each thread reads small ones into one
    connection.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite.connect_in_memory()
            for rule in ("trusted_schema = OFF", "query_only = ON"):
                connection.execute(f"PRAGMA {rule}")
            self._local.connection = connection
            self._connections.append(connection)
        found: sqlite3.Connection = self._local.connection
        return found

    def opened(self, backup: Backup, stream: Stream) -> Index:
        """Open an index like `Repository.open_index`. The caller closes it. Raises StoredDamage."""
        name, recorded = _recorded(stream, second=False)
        # Sealed ones are files of their own, which are removed when they are closed.
        if recorded.size <= _SMALL and self._repository.keyring is None:
            content = _good_content(self._repository, name, recorded)
            if content is not None:
                with suppress(StoredDamage, sqlite3.Error):
                    connection = self._connection()
                    connection.deserialize(content)
                    return _fitting(backup, stream, Path(name), connection)
        # It says what is wrong.
        return opened_good_index(self._repository, backup, stream)

    def close(self) -> None:
        while self._connections:
            self._connections.pop().close()


def _good_content(repository: Repository, name: str, recorded: StoredObject) -> bytes | None:
    """Return the bytes of a small index, which is one request; None unless they are as recorded."""
    try:
        content = repository.store.read(name, limit=recorded.size)
    except ObjectStoreError:
        raise
    except RepositoryError:
        return None
    return content if blake3(content).hexdigest() == recorded.digest else None


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
    """Return the path of a local copy of an index in a bucket, compared with the record. This takes one request.

    It takes none for a copy that fits the record if the repository trusts copies.
    """
    name, recorded = _recorded(stream, second=second)
    if repository.trusts_copies and isinstance(repository.store, KeepsCopies):
        known = repository.store.known_copy(name)
        if known is not None and _is(known, recorded):
            return known
    try:
        path = repository.store.local_file(name)
    except ObjectMissing:
        raise of_stream(backup.backup_id, stream, "missing", "index", "it is missing") from None
    if _is(path, recorded):
        return path
    # Is the copy bad, or the object?
    check_index(repository, backup, stream, second=second)
    path.unlink()
    return repository.store.local_file(name)


def _is(path: Path, recorded: StoredObject) -> bool:
    with suppress(OSError):
        return blake3(path.read_bytes()).hexdigest() == recorded.digest
    return False


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
