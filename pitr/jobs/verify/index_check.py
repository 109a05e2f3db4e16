# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the extent index of a stream, and its second copy if it has one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, Stream, known_name
from pitr.repository import Repository, names
from pitr.repository.damage import Damage, StoredDamage, of_stream
from pitr.repository.index import IndexRow
from pitr.repository.store import ObjectStoreError
from pitr.repository.stored_index import ManyIndexes, check_index


@dataclass(slots=True)
class IndexChecked:
    """The rows of a good index, if they were asked for and can be read; None for a damaged one.

    `damage` is damage of the stream. `harmless` loses nothing, because another copy is good.
    """

    rows: list[IndexRow] | None = None
    damage: list[StoredDamage] = field(default_factory=list)
    harmless: list[Damage] = field(default_factory=list)


def checked_index(
    repository: Repository, indexes: ManyIndexes, backup: Backup, stream: Stream, *, with_rows: bool
) -> IndexChecked:
    """Compare an index with its record, and its rows with each other. Raises ObjectStoreError."""
    checked = IndexChecked()
    try:
        _second_copy(repository, backup, stream, checked)
        if not is_opened(stream):
            check_index(repository, backup, stream)
            return checked
        with indexes.opened(backup, stream) as index:
            sums = index.checked_totals()
            rows = list(index.rows()) if with_rows else []
    except StoredDamage as error:
        checked.damage.append(error)
        return checked
    except ObjectStoreError:
        raise
    except (FormatError, RepositoryError) as error:
        checked.damage.append(of_stream(backup.backup_id, stream, "corrupt", "index", error.message))
        return checked
    if sums != (stream.extents, stream.data_bytes, stream.zero_bytes):
        message = "its totals do not match the record"
        checked.damage.append(of_stream(backup.backup_id, stream, "inconsistent", "index", message))
    checked.rows = rows
    return checked


def _second_copy(repository: Repository, backup: Backup, stream: Stream, checked: IndexChecked) -> None:
    """Check both copies of an index that is stored twice. A damaged copy loses nothing while the other is good."""
    if stream.index_copy is None:
        return
    harmed: list[StoredDamage] = []
    damaged_first = False
    for second in (False, True):
        try:
            check_index(repository, backup, stream, second=second)
            if is_opened(stream):
                repository.open_index_copy(backup, stream, second=second).close()
        except StoredDamage as error:
            harmed.append(error)
            damaged_first |= not second
    if len(harmed) == 1:
        copies = [name(stream.disk_id, stream.stream_id) for name in (names.index, names.index_copy)]
        bad, good = copies if damaged_first else copies[::-1]
        message = (
            f"{harmed[0].damage.message}; its other copy is good, and pitr reads that. "
            f"To repair it, copy {good} to {bad} in the repository"
        )
        checked.harmless.append(replace(harmed[0].damage, message=message))


def is_opened(stream: Stream) -> bool:
    """Return whether the record says what the opened data is: the repository is not sealed, or an identity opens it."""
    return known_name(stream.name) is not None
