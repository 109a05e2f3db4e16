# SPDX-License-Identifier: GPL-2.0-or-later
"""The points of all VMs, newest first, without holding them: there can be millions."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from pitr.model import Backup
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.packed import packed_time

#: Points that are read at a time.
_BATCH = 200
_PLACES = """
SELECT p.number, p.point FROM point_row AS p
WHERE NOT EXISTS (SELECT 1 FROM point_row AS other WHERE other.stands_for = p.backup_id)
AND (p.stands_for IS NULL OR NOT EXISTS (
    SELECT 1 FROM point_row AS other WHERE other.stands_for = p.stands_for AND other.backup_id > p.backup_id
))
"""


class InTurn:
    """The points of all VMs since a moment, and of these the newest, so many; None: all.

    They are read while you iterate, each time anew. Points whose place another one has taken are left out, as
    `pitr.jobs.point_order.without_replaced` does.
    """

    def __init__(self, catalog: Catalog, *, since: datetime | None = None, last: int | None = None) -> None:
        self._catalog = catalog
        self._since = since
        self._last = last

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __iter__(self) -> Iterator[Backup]:
        """Yield the points. Raises RepositoryError."""
        return islice(self._read(), self._last)

    def _read(self) -> Iterator[Backup]:
        catalog = self._catalog
        connection = catalog._connection
        numbers, times = self._places()
        start = 0
        while start < len(numbers):
            end = min(start + _BATCH, len(numbers))
            # The lineage orders points with the same time, so they must be read together.
            while end < len(numbers) and times[end] == times[end - 1]:
                end += 1
            chosen = json.dumps(numbers[start:end].tolist())
            backups = catalog._backups("WHERE p.number IN (SELECT value FROM json_each(?))", [chosen])
            if catalog._connection is not connection:
                # Another catalog stands in for a damaged file. Its rows have other numbers.
                connection = catalog._connection
                numbers, times = self._places()
                continue
            yield from backups
            start = end

    def _places(self) -> tuple[array[int], array[int]]:
        """Return the numbers and the times of the points, newest first: 16 bytes for a point."""
        where, values = ("", []) if self._since is None else ("AND p.point >= ?", [packed_time(self._since)])
        # SQLite sorts many rows in a temporary file.
        query = f"{_PLACES} {where} ORDER BY p.point DESC, p.backup_id DESC"
        catalog = self._catalog

        def gather() -> tuple[array[int], array[int]]:
            numbers, times = array("q"), array("q")
            with catalog._errors():
                for row in catalog._connection.execute(query, values):
                    numbers.append(row[0])
                    times.append(row[1])
            return numbers, times

        return catalog._read(gather)
