# SPDX-License-Identifier: GPL-2.0-or-later
"""Empty notes that a record is about to be stored, by day, so that others find new points without listing them all."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from pitr import times
from pitr.model import Backup
from pitr.repository import names
from pitr.repository.store import ObjectExists, Store

#: Notes of earlier days are removed: who has not looked for so long lists the records.
KEPT = timedelta(days=31)


def add(store: Store, backup: Backup) -> str:
    """Note that the record of a backup is about to be stored. Return the name of the note. Raises RepositoryError."""
    name = names.commit(times.now(), backup.vm.id, backup.point, backup.backup_id)
    with suppress(ObjectExists):
        store.create(name, b"")
    return name


def remove_before(store: Store, limit: datetime) -> None:
    """Remove the notes of earlier days that were written before `limit`. Raises RepositoryError."""
    for day in sorted(store.folders(names.COMMITS)):
        if day < names.day(limit):
            # The day is by the clock of a host, which may be wrong.
            for note in list(store.listed(f"{names.COMMITS}/{day}")):
                if note.written < limit:
                    store.delete(note.name)
