# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of when checks last read the streams of a VM and found them good (schema/proof.schema.json).

Nothing depends on them. Each note replaces the VM's older ones. Its name says when a point was last proven, so that a
status of all VMs need not read the notes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pitr import times
from pitr.errors import FormatError
from pitr.repository import canonical, names
from pitr.repository.store import ObjectMissing, Store
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "proof.schema.json"
_NEVER = "never"


@dataclass(frozen=True, slots=True)
class Proof:
    """When each stream of a VM (by id) was last read completely and found good.

    `proven`: all data of some point of the VM was read at this time or later; None if that never happened.
    """

    vm_id: str
    streams: Mapping[str, datetime]
    proven: datetime | None


@dataclass(frozen=True, slots=True)
class StoredProof:
    """A stored note under its name; `proof` is None for a damaged one."""

    name: str
    proof: Proof | None


def add(store: Store, proof: Proof) -> None:
    """Store a note. Raises RepositoryError."""
    document = {
        "format": FORMAT,
        "vm_id": proof.vm_id,
        "proven": times.to_text(proof.proven) if proof.proven is not None else None,
        "streams": {stream_id: times.to_text(time) for stream_id, time in proof.streams.items()},
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    proven = times.to_object_name(proof.proven) if proof.proven is not None else _NEVER
    store.create(f"{names.proofs_of(proof.vm_id)}/{proven}-{uuid.uuid4().hex[:8]}.json", stored)


def of_vm(store: Store, vm_id: str) -> Iterator[StoredProof]:
    """Yield the notes of a VM: one, or several after an interruption. Raises RepositoryError."""
    for name in list(store.list(names.proofs_of(vm_id))):
        try:
            yield StoredProof(name, _read(store, name))
        except ObjectMissing:
            # Another process has just replaced it.
            continue
        except FormatError:
            yield StoredProof(name, None)


def _read(store: Store, name: str) -> Proof:
    document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
    proven = document["proven"]
    return Proof(
        vm_id=document["vm_id"],
        streams={stream_id: times.from_text(text) for stream_id, text in document["streams"].items()},
        proven=times.from_text(proven) if proven is not None else None,
    )


def last_proven(store: Store, vm_id: str | None = None) -> dict[str, datetime]:
    """Return when all data of a point was last read and found good, by VM id; VMs without such a point are absent.

    Reads only names. Raises RepositoryError.
    """
    last: dict[str, datetime] = {}
    for name in store.list(names.proofs_of(vm_id)):
        *_, of_vm, file_name = name.split("/")
        time = times.from_object_name(file_name.partition("-")[0])
        if time is not None and (of_vm not in last or last[of_vm] < time):
            last[of_vm] = time
    return last


def remove(store: Store, stored: Iterable[StoredProof]) -> None:
    """Delete notes that a newer one replaces. Raises RepositoryError."""
    for each in stored:
        store.delete(each.name)


def remove_of(store: Store, vm_id: str) -> None:
    """Delete all notes of a VM. Raises RepositoryError."""
    for name in list(store.list(names.proofs_of(vm_id))):
        store.delete(name)
