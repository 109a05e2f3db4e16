# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what a point needs is there: a look at names and sizes, not at content."""

from __future__ import annotations

from pitr.model import Backup
from pitr.repository import Repository


def check_present(repository: Repository, backup: Backup) -> None:
    """Check that all blobs and indexes of the backup's chains are there with their sizes. Raises StoredDamage."""
    for stream in backup.streams:
        for owner, part in repository.chain(backup, stream):
            repository.check_sizes(owner, part)
