# SPDX-License-Identifier: GPL-2.0-or-later
"""Find protected objects that somebody overwrote or deleted. Their oldest versions are still what pitr wrote.

pitr writes each of these objects once, so a newer version or a delete marker comes from somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pitr import times
from pitr.errors import UsageError
from pitr.repository import Repository
from pitr.repository.protection import locked_store
from pitr.repository.store.lock_rules import PROTECTED

if TYPE_CHECKING:
    from pitr.repository.store.versions import Versions


@dataclass(frozen=True, slots=True)
class LaterVersion:
    """An object that has newer versions with other content (`overwritten`), or that is deleted for plain readers.

    `changed` is when the last of these versions was made.
    """

    name: str
    overwritten: int
    deleted: bool
    changed: datetime

    def as_document(self) -> dict[str, Any]:
        """Return the object for JSON."""
        return {
            "object": self.name,
            "overwritten": self.overwritten,
            "deleted": self.deleted,
            "changed": times.to_text(self.changed),
        }


@dataclass(frozen=True, slots=True)
class LaterVersions:
    """The result: how many objects were looked at, and those that somebody changed."""

    objects: int
    found: tuple[LaterVersion, ...]

    def as_document(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "ok": not self.found,
            "level": "versions",
            "checked": {"objects": self.objects},
            "versions": [each.as_document() for each in self.found],
        }


def later_versions(repository: Repository) -> LaterVersions:
    """Look at the versions of all protected objects. Raises UsageError without a lock, and RepositoryError."""
    store = locked_store(repository)
    if store is None:
        raise UsageError(
            "--versions needs a repository whose objects are protected", "Create one with 'pitr init --lock'."
        )
    objects = 0
    found: list[LaterVersion] = []
    for kind in sorted(PROTECTED):
        for each in store.bucket.listed(kind if "." in kind else f"{kind}/"):
            if each.oldest is None:
                # The rest of a removal.
                continue
            objects += 1
            found += _later(each)
    return LaterVersions(objects, tuple(found))


def _later(versions: Versions) -> Iterator[LaterVersion]:
    oldest = versions.versions[-1]
    # A request that was repeated after an unclear answer makes a second version with the same content.
    others = [each for each in versions.versions[:-1] if (each.tag, each.size) != (oldest.tag, oldest.size)]
    changes = [*(each.written for each in others), *(time for _, time in versions.markers)]
    if changes:
        yield LaterVersion(versions.name, len(others), bool(versions.markers), max(changes))
