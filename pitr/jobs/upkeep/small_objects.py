# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove small objects that no one needs any more: configurations, and notes that later objects ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from pitr import times
from pitr.model import Backup
from pitr.repository import Repository, commit_notes, configurations, history, names, pairs, removed_points
from pitr.repository.catalog import Catalog, overview
from pitr.repository.store import ObjectMissing, StillProtected


def remove_old_notes(repository: Repository) -> None:
    """Remove states that have ended, and notes and outcomes that are too old to matter. Raises RepositoryError."""
    store, now = repository.store, times.now()
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


def remove_configurations(repository: Repository, objects: Sequence[str]) -> None:
    """Remove these configurations unless a record refers to one again. Raises RepositoryError."""
    if objects:
        with configurations.removing(repository.path):
            for name in objects:
                if not _is_used(repository, repository.catalog, _digest(name)):
                    # Another point may have needed it until recently.
                    with suppress(StillProtected):
                        repository.store.delete(name)


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
