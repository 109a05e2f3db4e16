# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository knows of its points beside their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pitr.repository import Repository, drills
from pitr.repository.drills import Proven


@dataclass(frozen=True, slots=True)
class PointFacts:
    """Facts about one point. `proven` is the result of its last drill."""

    proven: Proven | None = None


NO_FACTS = PointFacts()


def facts_of_vm(repository: Repository, vm_id: str | None) -> Mapping[str, PointFacts]:
    """Return the facts about the points of a VM (None: of all VMs) by backup id. Points without facts are absent.

    Raises RepositoryError.
    """
    proven = drills.last_proven(repository.store, vm_id)
    return {backup_id: PointFacts(last) for backup_id, last in proven.items()}
