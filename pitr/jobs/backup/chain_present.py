# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what a point needs is there: a look at names and sizes, not at content."""

from __future__ import annotations

from pitr.model import Backup
from pitr.repository import Repository


def check_present(repository: Repository, backup: Backup) -> None:
    """Check that the record, and all blobs and indexes of the backup's chains with their sizes, are there.

    Raises StoredDamage.
    """
    repository.record_of(backup.backup_id)
    for stream in backup.streams:
        for owner, part in repository.chain(backup, stream):
            repository.check_sizes(owner, part)
