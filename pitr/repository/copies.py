# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of what other repositories have of this one (schema/copy.schema.json).

Nothing depends on them: they tell how far a second site is behind without asking it. Each note replaces the older ones
about the same repository.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pitr import times
from pitr.errors import FormatError, RepositoryError
from pitr.repository import canonical, names
from pitr.repository.store import ObjectMissing, Store
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "copy.schema.json"


@dataclass(frozen=True, slots=True)
class KnownCopy:
    """Another repository at `place`, and by VM id the newest point here when it lacked none."""

    repository_id: str
    place: str
    ended: datetime
    vms: Mapping[str, datetime]


def add(store: Store, copied: KnownCopy) -> None:
    """Store a note that also says what the older ones say about other VMs. Raises RepositoryError."""
    old = _of(store, copied.repository_id)
    merged: dict[str, datetime] = {}
    for _, before in old:
        merged |= before.vms if before is not None else {}
    document = {
        "format": FORMAT,
        "repository_id": copied.repository_id,
        "place": copied.place,
        "ended": times.to_text(copied.ended),
        "vms": {vm_id: times.to_text(time) for vm_id, time in (merged | dict(copied.vms)).items()},
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    name = f"{times.to_object_name(copied.ended)}-{uuid.uuid4().hex[:8]}.json"
    store.create(f"{names.copies_in(copied.repository_id)}/{name}", stored)
    for old_name, _ in old:
        # A host that cannot delete leaves them: the newest one counts.
        with suppress(RepositoryError):
            store.delete(old_name)


def known(store: Store) -> list[KnownCopy]:
    """Return the newest note about each other repository, by place. Raises RepositoryError."""
    ids = sorted(store.folders(names.COPIES))
    newest = [[each for _, each in _of(store, repository_id) if each is not None] for repository_id in ids]
    return sorted((found[-1] for found in newest if found), key=lambda each: (each.place, each.repository_id))


def _of(store: Store, repository_id: str) -> list[tuple[str, KnownCopy | None]]:
    """Return the notes about a repository by name, the newest last; None for a damaged one."""
    found: list[tuple[str, KnownCopy | None]] = []
    for name in sorted(store.list(names.copies_in(repository_id))):
        with suppress(ObjectMissing):
            found.append((name, _read(store, name)))
    return found


def _read(store: Store, name: str) -> KnownCopy | None:
    try:
        document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
        return KnownCopy(
            document["repository_id"],
            document["place"],
            times.from_text(document["ended"]),
            {vm_id: times.from_text(text) for vm_id, text in document["vms"].items()},
        )
    except FormatError:
        return None
