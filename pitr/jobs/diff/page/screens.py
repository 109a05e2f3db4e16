# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures of the page: the screens of the points when a drill last booted them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from pitr import times
from pitr.jobs.boot.last import in_words
from pitr.model import Backup
from pitr.repository import Repository, drills


def screens(repository: Repository, backups: Iterable[Backup]) -> list[dict[str, Any]]:
    """Return the last picture of each of these points that was booted, for the page. Raises RepositoryError."""
    found = []
    for backup in {backup.backup_id: backup for backup in backups}.values():
        last = drills.last_boot(repository.store, backup.vm.id, backup.backup_id)
        if last is not None and last.boot.screenshot is not None:
            text = f"{times.for_people(backup.point)}: {in_words(last)}"
            found.append({"text": text, "picture": b64encode(last.boot.screenshot).decode()})
    return found
