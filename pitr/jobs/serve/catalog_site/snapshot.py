# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy the catalog to a snapshot for readers, and add the drills, damage and chains of the repository.

Backups write to the live catalog, and a rebuild replaces it. A long-running reader must neither skip its locks nor hold
them, so it reads this copy in a private folder. One transaction updates the copy: readers see the old or the new state.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from pitr import times
from pitr.errors import FormatError, RepositoryError
from pitr.jobs import known_damage
from pitr.reporting import Notify
from pitr.repository import Repository, drills, findings, names, schema, sqlite
from pitr.repository.drills import Drill
from pitr.repository.location import Location

#: Check for changes at most this often: a check lists two folders of the repository.
PAUSE_S = 2.0


class Snapshot:
    """A copy at `path` of the catalog of the repository in folder `repository`.

    A browser needs `tables` instead of views: they have a page for each row, and links. Raises PitrError if the
    catalog is unreadable.
    """

    def __init__(self, repository: Location, path: Path, *, tables: bool = True) -> None:
        self._repository = repository
        self._tables = tables
        self.path = path
        self._lock = threading.Lock()
        self._state: tuple[tuple[int, int], ...] | None = None
        self._checked_at = 0.0
        self._drills: dict[str, Drill | str] = {}
        sqlite.connect(path, create=True).close()
        path.chmod(0o600)
        self.refresh()

    def refresh_if_due(self, notify: Notify) -> None:
        """Refresh if the last check is old enough. On a failure, notify and keep the old state."""
        with self._lock:
            due = time.monotonic() - self._checked_at >= PAUSE_S
        if due:
            try:
                self.refresh()
            except (RepositoryError, FormatError) as error:
                notify(f"cannot update the catalog's pages, which show an older state: {error.message}")

    def refresh(self) -> None:
        """Copy the catalog again if points, drills or findings were added or removed."""
        with self._lock:
            self._checked_at = time.monotonic()
            with Repository.open(self._repository) as repository:
                drill_names = frozenset(repository.store.list(names.drills_of(None)))
                state = (
                    _summary(repository.store.list(names.BACKUPS)),
                    _summary(drill_names),
                    _summary(repository.store.list(names.checks_of(None))),
                )
                if state != self._state:
                    self._copy(repository, drill_names)
                    self._state = state

    def _copy(self, repository: Repository, drill_names: frozenset[str]) -> None:
        # Drills never change: read each only once.
        self._drills = {name: self._drills.get(name) or _read(repository, name) for name in drill_names}
        damaged = list(_damage(repository))
        # In a file: millions of points would not fit into the memory.
        scratch = self.path.with_name("next.db")
        try:
            with closing(_new(scratch)) as copy:
                repository.catalog.copy_into(copy)
                copy.executescript(f"BEGIN; {schema.read('site.sql')}")
                for name, drill in sorted(self._drills.items()):
                    _insert(copy, name, drill)
                copy.executemany("INSERT INTO damage VALUES (?, ?, ?, ?, ?)", damaged)
                copy.execute("COMMIT")
                if self._tables:
                    copy.executescript(f"BEGIN; {schema.read('site_tables.sql')} COMMIT;")
                with closing(sqlite.connect(self.path)) as target:
                    copy.backup(target)
        except sqlite3.Error as error:
            raise RepositoryError(f"cannot copy the catalog: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)


def _summary(listed: Iterable[str]) -> tuple[int, int]:
    """Return what changes if a name does: there can be millions of them."""
    count, summary = 0, 0
    for name in listed:
        count += 1
        summary ^= hash(name)
    return count, summary


def _new(path: Path) -> sqlite3.Connection:
    """Create a database that is useless after an error."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    connection = sqlite.connect(path)
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    return connection


def _read(repository: Repository, name: str) -> Drill | str:
    """Return a drill, or the error message if its object is unreadable."""
    try:
        return drills.read(repository.store, name)
    except (FormatError, RepositoryError) as error:
        return error.message


def _damage(repository: Repository) -> Iterator[tuple[str, str, str | None, str, str]]:
    """Yield a row of the table "damage" for each finding and each point that it loses."""
    for loss in known_damage.losses(repository):
        message = findings.read(repository.store, loss.finding).damage.message
        for backup_id in sorted(loss.points):
            yield backup_id, loss.finding.vm_id, loss.disk_id, message, loss.finding.name


def _insert(copy: sqlite3.Connection, name: str, drill: Drill | str) -> None:
    row: tuple[str | int | None, ...]
    if isinstance(drill, Drill):
        ended = times.to_sortable(drill.time)
        boot = drill.boot
        row = (
            *(name, drill.backup_id, drill.vm_id, ended, drill.ok, drill.image, drill.duration_ms, None),
            *((boot.result, boot.evidence) if boot is not None else (None, None)),
        )
    else:
        *_, vm_id, backup_id, file_name = name.split("/")
        time_named = times.from_object_name(file_name.partition("-")[0])
        ended = times.to_sortable(time_named) if time_named is not None else ""
        row = (name, backup_id, vm_id, ended, None, None, None, drill, None, None)
    copy.execute("INSERT INTO drill VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    if isinstance(drill, Drill):
        if drill.boot is not None and drill.boot.screenshot is not None:
            seen = (name, drill.backup_id, drill.vm_id, ended, drill.boot.result, drill.boot.screenshot)
            copy.execute("INSERT INTO screen VALUES (?, ?, ?, ?, ?, ?)", seen)
        copy.executemany(
            "INSERT INTO finding VALUES (?, ?, ?, ?, ?, ?)",
            [
                (name, disk.disk_id, disk.name, finding.what, finding.ok, finding.message)
                for disk in drill.disks
                for finding in disk.findings
            ],
        )
