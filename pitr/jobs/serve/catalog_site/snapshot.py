# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the catalog for looking at, with what the repository holds beside it: rehearsals and chains.

The live catalog is written to, and replaced by a rebuild, whenever backups come and go. Who looks at it for hours must
neither read it without locks nor hold any: so this is a file of its own in a private folder. It is brought up to
date in one transaction, and readers of it see the old state or the new one.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pitr import times
from pitr.errors import FormatError, RepositoryError
from pitr.repository import Repository, drills, names, schema, sqlite
from pitr.repository.drills import Drill

#: Looking whether there is something new takes two listings of the repository: not more often than this.
PAUSE_S = 2.0


class Snapshot:
    """The copy `path` of the catalog of the repository in `repository`. Raises PitrError where that cannot be read."""

    def __init__(self, repository: Path, path: Path) -> None:
        self._repository = repository
        self.path = path
        self._lock = threading.Lock()
        self._state: tuple[frozenset[str], frozenset[str]] | None = None
        self._looked = 0.0
        self._drills: dict[str, Drill | str] = {}
        sqlite.connect(path, create=True).close()
        path.chmod(0o600)
        self.refresh()

    def refresh_if_due(self, notify: Callable[[str], None]) -> None:
        """Refresh where some time has passed. A failure is told: what is shown stays as it was."""
        with self._lock:
            due = time.monotonic() - self._looked >= PAUSE_S
        if due:
            try:
                self.refresh()
            except (RepositoryError, FormatError) as error:
                notify(f"the catalog is shown as it was before: {error.message}")

    def refresh(self) -> None:
        """Look whether points or rehearsals came or went, and take them over."""
        with self._lock:
            self._looked = time.monotonic()
            with Repository.open(self._repository) as repository:
                state = (
                    frozenset(repository.store.list(names.BACKUPS)),
                    frozenset(repository.store.list(names.drills_of(None))),
                )
                if state != self._state:
                    self._take_over(repository, state[1])
                    self._state = state

    def _take_over(self, repository: Repository, drill_names: frozenset[str]) -> None:
        # Rehearsals never change: each is read once.
        self._drills = {name: self._drills.get(name) or _read(repository, name) for name in drill_names}
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            repository.catalog.copy_into(copy)
            try:
                copy.executescript(schema.read("site.sql"))
                for name, found in sorted(self._drills.items()):
                    _insert(copy, name, found)
                with closing(sqlite.connect(self.path)) as target:
                    copy.backup(target)
            except sqlite3.Error as error:
                raise RepositoryError(f"the catalog cannot be copied for looking at: {error}") from error


def _read(repository: Repository, name: str) -> Drill | str:
    """What came of a rehearsal, or why that cannot be told."""
    try:
        return drills.read(repository.store, name)
    except (FormatError, RepositoryError) as error:
        return error.message


def _insert(copy: sqlite3.Connection, name: str, found: Drill | str) -> None:
    row: tuple[str | int | None, ...]
    if isinstance(found, Drill):
        ended = times.to_sortable(found.time)
        row = (name, found.backup_id, found.vm_id, ended, found.ok, found.image, found.duration_ms, None)
    else:
        *_, vm_id, backup_id, file_name = name.split("/")
        time_named = times.from_object_name(file_name.partition("-")[0])
        ended = times.to_sortable(time_named) if time_named is not None else ""
        row = (name, backup_id, vm_id, ended, None, None, None, found)
    copy.execute("INSERT INTO drill VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    if isinstance(found, Drill):
        copy.executemany(
            "INSERT INTO finding VALUES (?, ?, ?, ?, ?, ?)",
            [
                (name, disk.disk_id, disk.name, each.what, each.ok, each.message)
                for disk in found.disks
                for each in disk.findings
            ],
        )
