# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a catalog file with what the records say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitr.errors import RepositoryError
from pitr.repository.catalog import contents
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.contents import KEYS
from pitr.system.closing import Closes

CatalogRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CatalogDifferences:
    """The differences between the catalog and the records, one line each, and messages about damaged records."""

    points: int
    streams: int
    differences: tuple[str, ...]
    damaged: tuple[str, ...]


class Comparison(Closes):
    """Compares the catalog file at `path` with fresh catalogs, VM by VM."""

    def __init__(self, path: Path) -> None:
        self._old: Catalog | None = None
        with suppress(RepositoryError):
            self._old = Catalog.open(path, read_only=True)
        self._seen: set[str] = set()
        self._points = 0
        self._streams = 0
        self._damaged: list[str] = []
        self._differences: list[str] = []

    def close(self) -> None:
        if self._old is not None:
            self._old.close()

    def damaged(self, messages: Sequence[str]) -> None:
        """Note damaged records."""
        self._damaged += messages

    def of_vm(self, vm_id: str, fresh: Catalog, damaged: Sequence[str] = ()) -> None:
        """Compare the rows of a VM."""
        self._damaged += damaged
        points, streams = contents.counts_of_vm(fresh, vm_id)
        self._points += points
        self._streams += streams
        self._seen.add(vm_id)
        self._compare(vm_id, fresh)

    def result(self) -> CatalogDifferences:
        """Return all differences, and the number of points and streams in the records."""
        try:
            gone = [vm.id for vm in self._old.vms() if vm.id not in self._seen] if self._old else []
        except RepositoryError:
            self._old, gone = None, []
        with Catalog.create(None) as nothing:
            for vm_id in gone:
                self._compare(vm_id, nothing)
        differences = [f"record: {message}" for message in self._damaged]
        if self._old is None:
            differences.append("the catalog file is missing or unusable")
        else:
            differences += self._differences
        return CatalogDifferences(self._points, self._streams, tuple(differences), tuple(self._damaged))

    def _compare(self, vm_id: str, fresh: Catalog) -> None:
        if self._old is None:
            return
        try:
            if contents.same_rows(self._old, fresh, vm_id):
                return
            have, should = (contents.rows_of_vm(each, vm_id) for each in (self._old, fresh))
        except RepositoryError:
            self._old.close()
            self._old = None
            return
        for table, rows in should.items():
            if have[table] != rows:
                self._differences += _differing(table, have[table], rows)


def _differing(table: str, have: Sequence[CatalogRow], should: Sequence[CatalogRow]) -> Iterator[str]:
    key = KEYS[table]
    old = {tuple(row[part] for part in key): row for row in have}
    new = {tuple(row[part] for part in key): row for row in should}
    for name in sorted(old.keys() | new.keys()):
        shown = " ".join(str(part) for part in name)
        if name not in new:
            yield f"{table} {shown}: in the catalog, but not in the records"
        elif name not in old:
            yield f"{table} {shown}: in the records, but not in the catalog"
        elif old[name] != new[name]:
            columns = ", ".join(column for column in new[name] if old[name][column] != new[name][column])
            yield f"{table} {shown}: the catalog and the record differ in {columns}"
