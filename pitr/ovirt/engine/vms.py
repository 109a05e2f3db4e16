# SPDX-License-Identifier: GPL-2.0-or-later
"""Find VMs by name, id or tag, and read the configuration that pitr saves with each backup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pitr.errors import NoSuchVM, UsageError
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, is_uuid, required
from pitr.ovirt.engine.wait import pauses

#: In these states no qemu process runs, so that the disks do not change.
_NOT_RUNNING = frozenset({"down", "suspended", "image_locked"})

#: The origins of the VM that the engine runs in.
_HOSTED_ENGINE = frozenset({"hosted_engine", "managed_hosted_engine"})

#: The template of VMs that were made from none.
_BLANK = "00000000-0000-0000-0000-000000000000"

#: The words that the engine's search takes unquoted, except the keywords of its language.
_BARE_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_SEARCH_WORDS = frozenset({"and", "or", "not", "page", "sortby", "asc", "desc"})


@dataclass(frozen=True, slots=True)
class VM:
    """A VM. `compatibility` is its own version ("4.6") or its cluster's, None if unknown.

    `hosts_engine`: the engine itself runs in the VM. `template_ids`: its template, and the one that it was first made
    from, as far as they have disks. `host_id`: the host that it runs on, None if it does not run.
    """

    id: str
    name: str
    running: bool
    status: str
    cluster_id: str | None
    cluster_name: str | None
    compatibility: str | None
    hosts_engine: bool = False
    template_ids: frozenset[str] = frozenset()
    host_id: str | None = None


def find_vm(engine: Engine, name_or_id: str) -> VM:
    """Return the VM with this id or this case-sensitive name.

    Raises NoSuchVM, UsageError with the ids when several VMs have the name, EngineError.
    """
    if is_uuid(name_or_id):
        try:
            return get_vm(engine, name_or_id)
        except NoSuchVM:
            engine.log.debug("no VM has the id %s; searching for the name", name_or_id)
    matches = [vm for vm in _search(engine, name_or_id) if vm.name == name_or_id]
    if not matches:
        # The engine does not document how to quote special characters in a search, so search the whole list.
        matches = [vm for vm in _list(engine, None) if name_or_id in (vm.name, vm.id)]
    if not matches:
        raise NoSuchVM(
            f"VM {name_or_id!r} not found on the engine at {engine.where}",
            "Check the name (case-sensitive) or id, and that the user has a permission on the VM.",
        )
    if len(matches) > 1:
        ids = ", ".join(sorted(str(vm.id) for vm in matches))
        raise UsageError(f"{len(matches)} VMs have the name {name_or_id!r}: {ids}", "Use one of the ids.")
    return _read(matches[0], _clusters(engine, matches[0]))


def get_vm(engine: Engine, vm_id: str) -> VM:
    """Return the VM with this id. Raises NoSuchVM, EngineError."""
    vm = _get(engine, vm_id)
    return _read(vm, _clusters(engine, vm))


def same_vm_now(engine: Engine, vm: VM) -> VM:
    """Return the VM as it is now, without asking for its cluster again. Raises NoSuchVM, EngineError."""
    now = _read(_get(engine, vm.id), {})
    return replace(now, cluster_name=vm.cluster_name, compatibility=now.compatibility or vm.compatibility)


def list_vms(engine: Engine) -> list[VM]:
    """Return all VMs that the user can see, sorted by name. Raises EngineError."""
    return _all(engine, None)


def vms_with_tag(engine: Engine, tag: str) -> list[VM]:
    """Return the VMs with the tag, sorted by name. Raises UsageError for an invalid tag, EngineError."""
    if not _BARE_WORD.fullmatch(tag):
        raise UsageError(f"{tag!r} is not a valid tag", "Use only letters, digits, '_', '-' and '.'.")
    return _all(engine, f"tag={tag}")


def _all(engine: Engine, search: str | None) -> list[VM]:
    try:
        answer = engine.call("listing clusters", lambda system: system.clusters_service().list())
    except EngineFault as fault:
        if fault.status is None or fault.status >= 500:
            raise
        # The user cannot see clusters: list the VMs without their clusters' versions.
        engine.log.debug("%s", fault.message)
        answer = []
    clusters = {cluster.id: cluster for cluster in answer}
    return sorted((_read(vm, clusters) for vm in _list(engine, search)), key=lambda vm: (vm.name, vm.id))


def get_configuration(engine: Engine, vm_id: str, *, timeout_s: float = 5.0) -> str | None:
    """Return the VM's configuration, an OVF document; None if the engine sends none within `timeout_s`.

    The engine omits it while the VM changes. Raises NoSuchVM, EngineError.
    """
    for _ in pauses(timeout_s, engine.poll_interval_s):
        initialization = _get(engine, vm_id, all_content=True).initialization
        document = None if initialization is None else initialization.configuration
        if document is not None and document.data:
            return str(document.data)
    engine.log.warning("the engine does not send the configuration of VM %s", vm_id)
    return None


def _get(engine: Engine, vm_id: str, *, all_content: bool | None = None) -> Any:
    try:
        return engine.call(
            f"reading VM {vm_id}",
            lambda system: system.vms_service().vm_service(vm_id).get(all_content=all_content),
        )
    except EngineFault as fault:
        if fault.missing:
            raise NoSuchVM(f"VM {vm_id} not found on the engine at {engine.where}") from fault
        raise


def _search(engine: Engine, name: str) -> list[Any]:
    if not _BARE_WORD.fullmatch(name) or name.lower() in _SEARCH_WORDS:
        return []
    return _list(engine, f"name={name}")


def _list(engine: Engine, search: str | None) -> list[Any]:
    return list(engine.call("listing VMs", lambda system: system.vms_service().list(search=search)))


def _clusters(engine: Engine, vm: Any) -> Mapping[str, Any]:
    """Return the VM's cluster by its id; empty if it has none or the user cannot see it."""
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
        # The cluster's version is optional.
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
        hosts_engine=vm.origin in _HOSTED_ENGINE,
        template_ids=frozenset(
            template.id
            for template in (vm.template, vm.original_template)
            if template is not None and template.id and template.id != _BLANK
        ),
        host_id=vm.host.id if vm.host is not None else None,
    )
