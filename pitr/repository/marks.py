# SPDX-License-Identifier: GPL-2.0-or-later
"""What people say about points: holds, which keep a point, and notes (schema/mark.schema.json).

The newest mark of a kind counts, so that a host that cannot delete can take a hold back, or change a note.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pitr import times
from pitr.errors import FormatError
from pitr.model import Backup
from pitr.repository import canonical, names
from pitr.repository.store import ObjectMissing, Store
from pitr.version import __version__

FORMAT = 1
#: The longest note, in characters.
MAX_NOTE = 4000
_SCHEMA = "mark.schema.json"
_HOLD, _NOTE = "hold", "note"
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Hold:
    """A point that no rule removes, until `until` (UTC), or until it is released if that is None.

    `by_rollback`: nobody has asked for it, and it ends with the unfinished rollback that needs the point.
    """

    until: datetime | None
    by_rollback: bool = False

    def applies(self, now: datetime) -> bool:
        """Return whether the hold still keeps its point."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Marks:
    """The hold and the note of a point; a hold that has ended is still here."""

    hold: Hold | None = None
    note: str | None = None


NO_MARKS = Marks()


def hold(store: Store, backup: Backup, held: Hold | None) -> None:
    """Hold the point, or release it for None. Raises RepositoryError."""
    until = times.to_text(held.until) if held is not None and held.until is not None else None
    _add(store, backup, _HOLD, {"held": held is not None, "until": until, "text": None})


def note(store: Store, backup: Backup, text: str | None) -> None:
    """Set the note of the point, or remove it for None. Raises RepositoryError."""
    _add(store, backup, _NOTE, {"held": False, "until": None, "text": text})


def of_vm(store: Store, vm_id: str | None) -> dict[str, Marks]:
    """Return the marks of a VM's points (None: of all points) by backup id; points without marks are absent.

    A damaged mark counts as a hold without an end, and as no note. Raises RepositoryError.
    """
    newest: dict[str, dict[str, str]] = defaultdict(dict)
    for name in store.list(names.marks_of(vm_id)):
        *_, backup_id, file_name = name.split("/")
        kind = file_name.rpartition(".")[0].rpartition("-")[2]
        if kind in (_HOLD, _NOTE):
            newest[backup_id][kind] = max(name, newest[backup_id].get(kind, ""))
    found = {backup_id: _read(store, by_kind) for backup_id, by_kind in newest.items()}
    return {backup_id: marks for backup_id, marks in found.items() if marks != NO_MARKS}


def remove_of(store: Store, backups: Iterable[Backup]) -> None:
    """Delete the marks of points that are removed. Raises RepositoryError."""
    for backup in backups:
        for name in list(store.list(names.marks_of(backup.vm.id, backup.backup_id))):
            store.delete(name)


def _add(store: Store, backup: Backup, kind: str, content: Mapping[str, object]) -> None:
    now = times.now()
    document = {
        "format": FORMAT,
        "vm_id": backup.vm.id,
        "backup_id": backup.backup_id,
        "kind": kind,
        "time": times.to_text(now),
        **content,
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    folder = names.marks_of(backup.vm.id, backup.backup_id)
    before = [name for name in store.list(folder) if name.endswith(f"-{kind}.json")]
    # A clock that went back must not let the older mark count.
    made = [times.from_object_name(name.rpartition("/")[2].partition("-")[0]) for name in before]
    named = times.to_object_name(max([now, *(time + _TICK for time in made if time is not None)]))
    store.create(f"{folder}/{named}-{uuid.uuid4().hex[:8]}-{kind}.json", stored)


def _read(store: Store, by_kind: Mapping[str, str]) -> Marks:
    held: Hold | None = None
    text: str | None = None
    for kind, name in by_kind.items():
        try:
            document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
            until = document["until"]
            if kind == _HOLD and document["held"]:
                held = Hold(times.from_text(until) if until is not None else None)
            elif kind == _NOTE:
                text = document["text"] or None
        except ObjectMissing:
            continue
        except FormatError:
            if kind == _HOLD:
                held = Hold(None)
    return Marks(held, text)
