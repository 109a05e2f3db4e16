# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs: finding them by name or id, and the configuration that is saved with each backup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pitr.errors import NoSuchVM, UsageError
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, is_uuid, required
from pitr.ovirt.engine.wait import pauses

#: Without a running qemu process, so that its disks do not change.
_NOT_RUNNING = frozenset({"down", "suspended", "image_locked"})

#: What the engine's search takes as a bare word; "and", "or" and "page" are words of its language.
_BARE_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_SEARCH_WORDS = frozenset({"and", "or", "not", "page", "sortby", "asc", "desc"})


@dataclass(frozen=True, slots=True)
class VM:
    """A VM. `compatibility` is that of its cluster unless it has its own ("4.6"), None if not known."""

    id: str
    name: str
    running: bool
    status: str
    cluster_id: str | None
    cluster_name: str | None
    compatibility: str | None


def find_vm(engine: Engine, name_or_id: str) -> VM:
    """Return the VM with this id or, case counting, this name.

    Raises NoSuchVM, UsageError with the ids when several VMs have the name, EngineError.
    """
    if is_uuid(name_or_id):
        try:
            return get_vm(engine, name_or_id)
        except NoSuchVM:
            engine.log.debug("no VM has the id %s; looking for the name", name_or_id)
    found = [vm for vm in _search(engine, name_or_id) if vm.name == name_or_id]
    if not found:
        # How a search quotes odd names is nowhere documented: the whole list is always right.
        found = [vm for vm in _list(engine, None) if name_or_id in (vm.name, vm.id)]
    if not found:
        raise NoSuchVM(
            f"there is no VM with the name or id {name_or_id!r} on the engine at {engine.where}",
            "Names are case-sensitive; the user needs a permission on the VM to see it.",
        )
    if len(found) > 1:
        ids = ", ".join(sorted(str(vm.id) for vm in found))
        raise UsageError(f"{len(found)} VMs have the name {name_or_id!r}: {ids}", "Name one by its id.")
    return _read(found[0], _clusters(engine, found[0]))


def get_vm(engine: Engine, vm_id: str) -> VM:
    """Return the VM with this id. Raises NoSuchVM, EngineError."""
    vm = _get(engine, vm_id)
    return _read(vm, _clusters(engine, vm))


def list_vms(engine: Engine) -> list[VM]:
    """Return all VMs that the user may see, by name. Raises EngineError."""
    return _all(engine, None)


def vms_with_tag(engine: Engine, tag: str) -> list[VM]:
    """Return the VMs that have the tag, by name. Raises UsageError for what is no tag, EngineError."""
    if not _BARE_WORD.fullmatch(tag):
        raise UsageError(f"{tag!r} is not a tag", "A tag has letters, digits, '_', '-' and '.' only.")
    return _all(engine, f"tag={tag}")


def _all(engine: Engine, search: str | None) -> list[VM]:
    try:
        found = engine.call("listing clusters", lambda system: system.clusters_service().list())
    except EngineFault as fault:
        if fault.status is None or fault.status >= 500:
            raise
        # Not to be seen by this user: VMs without their clusters' versions are VMs, too.
        engine.log.debug("%s", fault.message)
        found = []
    clusters = {cluster.id: cluster for cluster in found}
    return sorted((_read(vm, clusters) for vm in _list(engine, search)), key=lambda vm: (vm.name, vm.id))


def get_configuration(engine: Engine, vm_id: str, *, timeout_s: float = 5.0) -> str | None:
    """Return the VM's configuration, an OVF document; None if the engine gives none within `timeout_s`.

    The engine leaves it out while the VM changes. Raises NoSuchVM, EngineError.
    """
    for _ in pauses(timeout_s, engine.poll_interval_s):
        initialization = _get(engine, vm_id, all_content=True).initialization
        document = None if initialization is None else initialization.configuration
        if document is not None and document.data:
            return str(document.data)
    engine.log.warning("the engine gives no configuration of VM %s", vm_id)
    return None


def _get(engine: Engine, vm_id: str, *, all_content: bool | None = None) -> Any:
    try:
        return engine.call(
            f"reading VM {vm_id}",
            lambda system: system.vms_service().vm_service(vm_id).get(all_content=all_content),
        )
    except EngineFault as fault:
        if fault.missing:
            raise NoSuchVM(f"there is no VM with the id {vm_id} on the engine at {engine.where}") from fault
        raise


def _search(engine: Engine, name: str) -> list[Any]:
    if not _BARE_WORD.fullmatch(name) or name.lower() in _SEARCH_WORDS:
        return []
    return _list(engine, f"name={name}")


def _list(engine: Engine, search: str | None) -> list[Any]:
    return list(engine.call("listing VMs", lambda system: system.vms_service().list(search=search)))


def _clusters(engine: Engine, vm: Any) -> Mapping[str, Any]:
    """The VM's cluster by its id; empty when it has none, or the engine does not show it."""
    if vm.cluster is None or not vm.cluster.id:
        return {}
    cluster_id = vm.cluster.id
    try:
        cluster = engine.call(
            f"reading cluster {cluster_id}",
            lambda system: system.clusters_service().cluster_service(cluster_id).get(),
        )
    except EngineFault as fault:
        if fault.status is None:
            raise
        # Good to know, and no reason to fail.
        engine.log.debug("%s", fault.message)
        return {}
    return {cluster_id: cluster}


def _read(vm: Any, clusters: Mapping[str, Any]) -> VM:
    cluster_id = vm.cluster.id if vm.cluster is not None else None
    cluster = clusters.get(cluster_id) if cluster_id else None
    version = vm.custom_compatibility_version or (cluster.version if cluster is not None else None)
    compatibility = None
    if version is not None and version.major is not None and version.minor is not None:
        compatibility = f"{version.major}.{version.minor}"
    status = enum_text(vm.status)
    return VM(
        id=required(vm.id, "the VM's id"),
        name=required(vm.name, "the VM's name"),
        running=status not in _NOT_RUNNING,
        status=status,
        cluster_id=cluster_id,
        cluster_name=cluster.name if cluster is not None else None,
        compatibility=compatibility,
    )
