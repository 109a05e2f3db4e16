# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backup to a bucket need not ask for. A check asks for all of it, because it would miss damage otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pitr.model import Backup
from pitr.repository.catalog.catalog import Known
from pitr.repository.repository import MAX_RECORDS, Repository


@contextmanager
def trusting_copies(repository: Repository) -> Iterator[None]:
    """Take local copies of indexes that fit their records while the block runs, without a request for each."""
    before, repository.trusts_copies = repository.trusts_copies, True
    try:
        yield
    finally:
        repository.trusts_copies = before


def take_as_read(repository: Repository, listed: Iterable[tuple[Known, Backup]]) -> None:
    """Take records of a bucket as the catalog has them: a list has just shown that they are there, with their sizes."""
    for known, backup in listed:
        if len(repository.read_records) >= MAX_RECORDS:
            return
        repository.read_records[known.name] = backup, known.record
