# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that may run twice makes one point: the ids of its backups say which task they belong to.

A worker can die after it has committed the point and before it has told so. The run that takes its place finds the
point by its id: the first half of the id comes from the task, the second half is random.
"""

from __future__ import annotations

import hashlib
import os
import uuid

from pitr.model import Backup
from pitr.repository import Repository

#: The characters of a backup id that the task decides, with the version of the id and two hyphens.
_OF_TASK = 18


def new_backup_id(task_id: str | None) -> str:
    """Return an id for a new backup of the task; a random one without a task."""
    if task_id is None:
        return str(uuid.uuid4())
    return str(uuid.UUID(bytes=hashlib.sha256(task_id.encode()).digest()[:8] + os.urandom(8), version=4))


def committed(repository: Repository, vm_id: str, task_id: str | None) -> Backup | None:
    """Return the point of the VM that a run of the task has committed; None if there is none.

    Raises RepositoryError.
    """
    if task_id is None:
        return None
    beginning = new_backup_id(task_id)[:_OF_TASK]
    points = repository.catalog_of_vm(vm_id).points(vm_id)
    return next((point for point in points if point.backup_id.startswith(beginning)), None)
