# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove small objects that no one needs any more: configurations, and notes that later objects ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from pitr import times
from pitr.model import Backup
from pitr.repository import (
    Repository,
    commit_notes,
    configurations,
    history,
    names,
    pairs,
    removed_points,
    tombstones,
)
from pitr.repository.catalog import Catalog, overview
from pitr.repository.store import ObjectMissing, StillProtected


def remove_old_notes(repository: Repository) -> None:
    """Remove states that have ended, and notes and outcomes that are too old to matter. Raises RepositoryError."""
    store = repository.store
    # Another host with another clock may just have written one.
    now = tombstones.store_time(store) if repository.removes_later else times.now()
    for pair in pairs.ALL:
        pair.collect(store)
    commit_notes.remove_before(store, now - commit_notes.KEPT)
    history.remove_before(store, now - history.KEPT)


def configurations_of_only(repository: Repository, backups: Sequence[Backup]) -> list[str]:
    """Return the names of the configurations that only these backups of a VM refer to, as far as the catalog knows.

    The removal looks again. Raises RepositoryError.
    """
    if not backups:
        return []
    catalog = repository.catalog_of_vm(backups[0].vm.id)
    digests = {backup.configuration.digest for backup in backups if backup.configuration is not None}
    ids = [backup.backup_id for backup in backups]
    return [
        names.configuration(digest)
        for digest in sorted(digests)
        if not _is_used(repository, catalog, digest, besides=ids)
    ]


def remove_configurations(repository: Repository, objects: Sequence[str], vm_id: str | None = None) -> None:
    """Remove these configurations (of a VM) unless a record refers to one again. Raises RepositoryError."""
    if objects:
        with configurations.removing(repository.path):
            unused = [name for name in objects if not _is_used(repository, repository.catalog, _digest(name))]
            remove_unused(repository, unused, vm_id)


def remove_unused(repository: Repository, objects: Iterable[str], vm_id: str | None = None) -> None:
    """Remove these configurations (of a VM), which no record refers to. The caller holds their lock.

    Raises RepositoryError.
    """
    removed: dict[str, bytes] = {}
    for name in objects:
        if repository.removes_later:
            with suppress(ObjectMissing):
                removed[name] = repository.store.read(name, limit=configurations.MAX_SIZE)
        # Another point may have needed it until recently.
        with suppress(StillProtected):
            repository.store.delete(name)
    if not removed:
        return
    # Another host may have committed a record with one meanwhile. From now on, it sees itself that it is missing.
    if vm_id is not None:
        repository.opened_catalog().again(vm_id)
    else:
        repository.completed_again()
    for name, content in removed.items():
        if _is_used(repository, repository.catalog, _digest(name)):
            configurations.add(repository.store, content)


def unreferenced_configurations(repository: Repository, catalog: Catalog, limit: datetime) -> Iterator[str]:
    """Yield the names of the configurations that were stored before `limit` and that no record refers to.

    The catalog must have all records.
    """
    store = repository.store
    for name in sorted(store.list(names.CONFIGURATIONS)):
        if _is_used(repository, catalog, _digest(name)):
            continue
        try:
            written = store.written(name)
        except ObjectMissing:
            continue
        if written < limit:
            yield name


def _is_used(repository: Repository, catalog: Catalog, digest: str, besides: Collection[str] = ()) -> bool:
    """Return whether a record refers to the configuration, also that of a hidden point."""
    return any(
        overview.refers_to_configuration(each, digest, besides)
        for each in (catalog, removed_points.rows(repository))
    )


def _digest(name: str) -> str:
    return name.rpartition("/")[2]
