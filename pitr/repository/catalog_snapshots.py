# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of the catalog in a bucket: a new host need not read every record to list the points.

A snapshot is only a cache. Whoever can write to the bucket can forge one, so pitr uses it for lists alone: what is
restored, checked, based on or removed comes from the records.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import zstandard
from blake3 import blake3

from pitr import times
from pitr.errors import FormatError, Interrupted, NoFittingIdentity, PitrError, RepositoryError
from pitr.repository import hidden, names, tombstones
from pitr.repository.catalog import transfer
from pitr.repository.store import ObjectMissing, Store

if TYPE_CHECKING:
    from pitr.repository.repository import Repository
    from pitr.repository.sealing.keyring import Keyring

_log = logging.getLogger(__name__)
_NAME = re.compile(r"catalogs/(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f]{64})\.db\.zst(\.age)?")
#: A slow line takes long for more, and requests have a time limit.
_PIECE = 1 << 23
_CHUNK = 1 << 20
_LEVEL = 3
#: zstd makes no more of ids and digests. Anything larger is no catalog.
_MOST_RATIO = 100
#: A snapshot of this size is stored whenever points have changed, a larger one twice a day.
_SMALL = 4 << 20
_OFTEN = timedelta(hours=12)
#: The older one is for hosts that are reading it.
_KEPT = 2
#: How many snapshots a host tries before it reads the records.
_TRIES = 3
#: A snapshot is stored within this time after the list of its records began.
_LONGEST = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored snapshot. It has every record that existed at `begun`, by the store's clock."""

    name: str
    begun: datetime
    digest: str
    size: int
    written: datetime


def found(store: Store, *, is_sealed: bool) -> list[Snapshot]:
    """Return the snapshots, the newest first: the sealed ones, or those in the open. Raises RepositoryError."""
    snapshots = []
    for each in store.listed(names.CATALOGS):
        parts = _NAME.fullmatch(each.name)
        begun = times.from_object_name(parts[1]) if parts is not None else None
        if parts is None or begun is None or (parts[3] is not None) != is_sealed:
            continue
        # The store gives the time of writing whole seconds.
        if begun - timedelta(seconds=1) <= each.written <= begun + _LONGEST:
            snapshots.append(Snapshot(each.name, begun, parts[2], each.size, each.written))
    return sorted(snapshots, key=lambda each: (each.begun, each.name), reverse=True)


def _identity_of(repository: Repository) -> Keyring | None:
    """Return the keys of a sealed repository whose names this process can read."""
    keyring = repository.keyring
    return keyring if keyring is not None and keyring.opens else None


def _opens_some(repository: Repository) -> bool:
    """Return whether identities open the names of some epochs only: a snapshot is of all, or of none."""
    keyring = repository.keyring
    return keyring is not None and keyring.opens and not keyring.opens_all


def store_snapshot(repository: Repository) -> str | None:
    """Store a snapshot of all points, and remove old ones. Return its name; None if the newest one suffices.

    A process without an identity stores one of a sealed repository without names. Raises RepositoryError.
    """
    if _opens_some(repository):
        return None
    store, keyring = repository.store, _identity_of(repository)
    before = found(store, is_sealed=keyring is not None)
    begun = tombstones.store_time(store)
    if before and before[0].size > _SMALL and begun - before[0].begun < _OFTEN:
        return None
    catalog, _ = repository.completed_again()
    rows, records = repository.opened_catalog().hidden_rows()
    hidden_ids: dict[str, list[str]] = defaultdict(list)
    for backup_id, each in records.items():
        hidden_ids[each.name.split("/")[1]].append(backup_id)
    entries = [
        entry for vm_id in sorted(hidden_ids) for entry in hidden.entries(rows, vm_id, hidden_ids[vm_id])
    ]
    plain, packed = store.scratch_file(), store.scratch_file()
    try:
        transfer.write(catalog, plain, repository.id, entries)
        digest, size = _pack(plain, packed, keyring)
        suffix = ".age" if keyring is not None else ""
        name = f"{names.CATALOGS}/{times.to_object_name(begun)}-{digest}.db.zst{suffix}"
        if before and before[0].digest == digest and begun - before[0].begun < _OFTEN:
            return None
        with store.new(name) as new, packed.open("rb") as file:
            while piece := file.read(_CHUNK):
                new.write(piece)
            new.commit()
    except OSError as error:
        raise RepositoryError(f"cannot write a snapshot of the catalog: {error.strerror}") from error
    finally:
        store.drop_scratch(plain)
        store.drop_scratch(packed)
    _log.info("stored a snapshot of the catalog (%d bytes): %s", size, name)
    for old in before[_KEPT - 1 :]:
        store.delete(old.name)
    return name


def _pack(plain: Path, packed: Path, keyring: Keyring | None) -> tuple[str, int]:
    """Compress a file, and seal it. Return the digest and the size of the result."""
    digest, size = blake3(), 0
    with plain.open("rb") as source, packed.open("wb") as file:

        def put(data: bytes | memoryview) -> None:
            nonlocal size
            file.write(data)
            digest.update(data)
            size += len(data)

        pieces = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).read_to_iter(source)
        if keyring is None:
            for piece in pieces:
                put(piece)
        else:
            from pitr.repository.sealing.age import AgeWriter  # noqa: PLC0415 - most repositories are in the open

            writer = AgeWriter(put, keyring.recipients())
            for piece in pieces:
                writer.write(piece)
            writer.finish()
    return digest.hexdigest(), size


@dataclass(frozen=True, slots=True)
class Taken:
    """A catalog file has all points that existed at `begun`. `hidden`: the ids of those that tombstones hid."""

    begun: datetime
    hidden: frozenset[str]


def take(repository: Repository, into: Path) -> Taken | None:
    """Make a catalog file of the newest good snapshot; None without one. The caller removes the file after an error.

    Raises RepositoryError if the store does not answer.
    """
    if _opens_some(repository):
        return None
    keyring = _identity_of(repository)
    for snapshot in found(repository.store, is_sealed=keyring is not None)[:_TRIES]:
        try:
            return Taken(snapshot.begun, frozenset(_taken(repository, snapshot, keyring, into)))
        except (FormatError, ObjectMissing) as error:
            _log.warning("the snapshot %s of the catalog is not used: %s", snapshot.name, error.message)
            into.unlink(missing_ok=True)
    return None


def _taken(repository: Repository, snapshot: Snapshot, keyring: Keyring | None, into: Path) -> set[str]:
    store = repository.store
    packed, plain = store.scratch_file(), store.scratch_file()
    try:
        _fetch(store, snapshot, packed)
        _unpack(packed, plain, keyring, _MOST_RATIO * snapshot.size + _CHUNK)
        return transfer.take(plain, into, repository.id)
    except OSError as error:
        raise RepositoryError(f"cannot write temporary files: {error.strerror}") from error
    finally:
        store.drop_scratch(packed)
        store.drop_scratch(plain)


def _fetch(store: Store, snapshot: Snapshot, into: Path) -> None:
    digest = blake3()
    with store.open(snapshot.name) as file, into.open("wb") as local:
        if file.size != snapshot.size:
            raise FormatError("it has another size than the list says")
        for offset in range(0, file.size, _PIECE):
            piece = file.read_at(offset, _PIECE)
            digest.update(piece)
            local.write(piece)
    if digest.hexdigest() != snapshot.digest:
        raise FormatError("it has another digest than its name")


def _unpack(packed: Path, into: Path, keyring: Keyring | None, limit: int) -> None:
    with packed.open("rb") as source, into.open("wb") as file:
        size = 0
        machine = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        try:
            for piece in _opened(source, packed.stat().st_size, keyring):
                data = machine.decompress(piece)
                size += len(data)
                if size > limit:
                    raise FormatError("it is larger than a catalog can be")
                file.write(data)
        except zstandard.ZstdError as error:
            raise FormatError(f"zstd cannot read it: {error}") from error
        if not machine.eof or machine.unused_data:
            raise FormatError("it is truncated, or has more than one frame")


def _opened(source: BinaryIO, size: int, keyring: Keyring | None) -> Iterator[bytes]:
    # Small pieces: each can become much larger.
    step = 1 << 16
    if keyring is None:
        while piece := source.read(step):
            yield piece
        return
    from pitr.repository.sealing.age import AgeReader  # noqa: PLC0415 - as above

    def read(offset: int, length: int) -> bytes:
        source.seek(offset)
        return source.read(length)

    try:
        reader = AgeReader(read, size, keyring.identities)
        for offset in range(0, reader.size, step):
            yield reader.read_at(offset, step)
    except NoFittingIdentity as error:
        raise FormatError(error.message) from error


def try_to_store(repository: Repository, tell: Callable[[str], None]) -> None:
    """Store a snapshot where hosts have catalogs of their own; a failure is only told: nothing depends on it."""
    if repository.path == repository.location:
        return
    try:
        store_snapshot(repository)
    except Interrupted:
        raise
    except PitrError as error:
        tell(f"the snapshot of the catalog for new hosts was not stored: {error.message}")
