# SPDX-License-Identifier: GPL-2.0-or-later
"""Check that all objects of a point exist, by name and size, without reading their content."""

from __future__ import annotations

from pitr.model import Backup
from pitr.repository import Repository


def check_present(repository: Repository, backup: Backup) -> None:
    """Check that the record exists, and all blobs and indexes of the backup's chains with the right sizes.

    Raises StoredDamage.
    """
    repository.record_of(backup.backup_id)
    for stream in backup.streams:
        for owner, part in repository.chain(backup, stream):
            repository.check_sizes(owner, part)
