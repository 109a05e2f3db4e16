# SPDX-License-Identifier: GPL-2.0-or-later
"""Find unreferenced objects: blobs and indexes that no record names. Failed backups leave them.

The streams of a running backup have no record yet either. How pitr tells them apart, without holding the locks of all
VMs, is in docs/design.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain

from pitr.errors import PitrError
from pitr.repository import Repository, names, removed_points
from pitr.repository.catalog import Catalog, contents
from pitr.repository.store import ObjectMissing, uploads
from pitr.repository.store.s3 import S3Location
from pitr.repository.store.uploads import Upload


def of_all(repository: Repository, catalog: Catalog, limit: datetime) -> Iterator[str]:
    """Yield the names of all unreferenced objects that were written before `limit`, disk by disk, in order.

    The catalog must have all records, and every writer that is still running must have started after `limit`.
    """
    catalogs = (catalog, removed_points.rows(repository))
    store = repository.store
    for disk_id in sorted({*store.folders(names.BLOBS), *store.folders(names.INDEXES)}):
        yield from _of_disk(repository, catalogs, disk_id, limit)


def dead_uploads(repository: Repository, limit: datetime) -> list[Upload]:
    """Return the uploads to a bucket that began before `limit` and never ended. Raises RepositoryError."""
    if not isinstance(repository.location, S3Location):
        return []
    return [upload for upload in uploads.unfinished(repository.location) if upload.begun < limit]


def end_uploads(repository: Repository, found: Iterable[Upload]) -> None:
    """Remove the parts of uploads. Raises RepositoryError."""
    if isinstance(repository.location, S3Location):
        for upload in found:
            uploads.abort(repository.location, upload)


def of_vm(repository: Repository, catalog: Catalog, vm_id: str, limit: datetime) -> Iterator[str]:
    """Yield the names of the unreferenced blobs that the VM's own backups wrote before `limit`, and of their indexes.

    The catalog must have all records of the VM. The caller holds its lock, so none of its backups is running.
    """
    catalogs = (catalog, removed_points.rows(repository))
    for disk_id in sorted({disk_id for each in catalogs for disk_id in contents.disks_of_vm(each, vm_id)}):
        writers: dict[str, bool] = {}
        for name in _of_disk(repository, catalogs, disk_id, limit):
            stream_id = names.stream_of(name)
            if stream_id not in writers:
                writers[stream_id] = _wrote(repository, vm_id, names.blob(disk_id, stream_id))
            # A record that this catalog does not have yet, of another VM, may name the others.
            if writers[stream_id]:
                yield name


def _of_disk(
    repository: Repository, catalogs: Sequence[Catalog], disk_id: str, limit: datetime
) -> Iterator[str]:
    named = {stream_id for catalog in catalogs for stream_id in contents.streams_named(catalog, disk_id)}
    parts = {stream_id for catalog in catalogs for stream_id in contents.parts_named(catalog, disk_id)}
    folders = (f"{names.BLOBS}/{disk_id}", f"{names.INDEXES}/{disk_id}")
    for name, written in sorted(chain.from_iterable(_objects(repository, folder) for folder in folders)):
        stream_id = names.stream_of(name)
        # Of a part, only the blob is needed.
        if stream_id in named or (stream_id in parts and name == names.blob(disk_id, stream_id)):
            continue
        with suppress(ObjectMissing):
            if (written or repository.store.written(name)) < limit:
                yield name


def _objects(repository: Repository, folder: str) -> Iterator[tuple[str, datetime | None]]:
    """Yield the objects of a folder. The list of a bucket tells when each was written; of files, few are asked."""
    store = repository.store
    if repository.path == repository.location:
        return ((name, None) for name in store.list(folder))
    return ((each.name, each.written) for each in store.listed(folder))


def _wrote(repository: Repository, vm_id: str, blob: str) -> bool:
    """Return whether the blob says that a backup of this VM wrote it."""
    from pitr.repository.blob_walk import BlobWalk  # noqa: PLC0415 - a plan needs no arrays

    with suppress(PitrError), repository.store.open(blob) as file:
        return BlobWalk(file).meta.get("vm-id") == vm_id
    return False
