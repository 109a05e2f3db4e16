# SPDX-License-Identifier: GPL-2.0-or-later
"""Retired VMs, which backups leave out unless they name them (schema/retired.schema.json)."""

from __future__ import annotations

from contextlib import suppress

from pitr import times
from pitr.errors import FormatError
from pitr.model import SealedName, VMName
from pitr.repository import canonical, names, sealed
from pitr.repository.store import ObjectExists, Store, is_name
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "retired.schema.json"


def add(store: Store, vm: VMName) -> None:
    """Retire a VM; a retired one stays so. Raises RepositoryError."""
    document = {
        "format": FORMAT,
        "vm_id": vm.id,
        "vm_name": vm.name,
        "time": times.to_text(times.now()),
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    with suppress(ObjectExists):
        store.create(names.retired(vm.id), stored)


def remove(store: Store, vm_id: str) -> None:
    """End the retirement of a VM. Raises RepositoryError."""
    store.delete(names.retired(vm_id))


def ids(store: Store) -> frozenset[str]:
    """Return the ids of all retired VMs. Raises RepositoryError."""
    folder, suffix = f"{names.RETIRED}/", ".json"
    listed = (name.removeprefix(folder) for name in store.list(names.RETIRED) if is_name(name))
    return frozenset(name.removesuffix(suffix) for name in listed if name.endswith(suffix))


def vms(store: Store) -> list[VMName]:
    """Return all retired VMs with the names they had then; a damaged object gives the id only.

    Raises RepositoryError.
    """
    return [_read(store, vm_id) for vm_id in sorted(ids(store))]


def _read(store: Store, vm_id: str) -> VMName:
    try:
        document = canonical.decode(store.read(names.retired(vm_id), limit=canonical.MAX_SIZE), _SCHEMA)
    except FormatError:
        return VMName(vm_id, vm_id)
    is_hidden = sealed.hides_names(store) and document["vm_name"] == vm_id
    return VMName(vm_id, SealedName(vm_id) if is_hidden else document["vm_name"])
