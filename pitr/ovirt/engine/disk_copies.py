# SPDX-License-Identifier: GPL-2.0-or-later
"""Let the engine copy a disk, from storage to storage."""

from __future__ import annotations

import time
from collections.abc import Callable

from ovirtsdk4 import types

from pitr.errors import EngineError, NoSuchDisk, UsageError
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disks import Disk, delete_disk, get_disk, wait_until_ok
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.naming import is_alias
from pitr.ovirt.engine.values import required
from pitr.ovirt.engine.wait import pauses

#: A copy of several TiB takes hours, and the engine does not report its progress.
COPY_TIMEOUT_S = 48 * 3600.0
#: Seconds until a copy that the engine has accepted is in its list of disks.
_APPEARS_S = 60.0
#: Seconds to wait for the removal of a copy. The engine cannot stop a copy that runs.
_REMOVAL_S = 120.0
#: Seconds until the engine unlocks the disk after its copy is complete.
_UNLOCK_S = 600.0


def copy_disk(
    engine: Engine,
    disk_id: str,
    *,
    alias: str,
    storage_domain_id: str | None = None,
    disk_profile_id: str | None = None,
    timeout_s: float = COPY_TIMEOUT_S,
    waiting: Callable[[float], None] | None = None,
) -> Disk:
    """Copy the disk to a new one named `alias`, and return the new disk when both have the status "ok".

    The copy has the format of the disk and is attached to no VM. It goes to the disk's own storage domain by default.
    `waiting` gets the seconds since the start before each pause. The alias must be free, because only the alias tells
    which disk is the copy. After an error or an interrupt, pitr removes the copy that this call made; if the engine
    still copies, this cannot succeed, and the error gets a note with the id of the copy.

    Raises NoSuchDisk, UsageError for an alias that is invalid or taken, EngineBusy when the disk is locked,
    EngineError.
    """
    source = get_disk(engine, disk_id)
    if not is_alias(alias):
        raise UsageError(
            f"the engine does not accept the alias {alias!r} for a copy of disk {source.name!r}",
            "Use at most 255 letters, digits, dots, underscores and hyphens.",
        )
    taken = disks_with_alias(engine, alias)
    if taken:
        raise UsageError(
            f"a disk with the alias {alias!r} exists already: {taken[0].id}",
            "Choose another alias, or remove that disk.",
        )
    domain_id = storage_domain_id or next(iter(source.storage_domain_ids), None)
    if domain_id is None:
        raise EngineError(f"the engine does not report the storage domain of disk {source.name!r}")
    began = time.monotonic()

    def tell() -> None:
        if waiting is not None:
            waiting(time.monotonic() - began)

    try:
        _post(engine, source, alias, domain_id, disk_profile_id)
        made = _appeared(engine, source, alias)
        copied = wait_until_ok(engine, made.id, timeout_s, waiting=tell)
        if copied.size < source.size or copied.format != source.format:
            raise EngineError(
                f"the copy of disk {source.name!r} has {copied.size} bytes in format {copied.format} instead of "
                f"{source.size} bytes in format {source.format}"
            )
        wait_until_ok(engine, disk_id, _UNLOCK_S, waiting=tell)
        return copied
    except BaseException as error:
        _remove_own(engine, alias, error)
        raise


def disks_with_alias(engine: Engine, alias: str) -> list[Disk]:
    """Return the disks with exactly this alias, sorted by id. Raises EngineError."""
    # A search ignores case.
    return [disk for disk in disks_named_like(engine, alias) if disk.name == alias]


def disks_named_like(engine: Engine, alias: str) -> list[Disk]:
    """Return the disks whose alias matches, sorted by id; `*` matches any text. Raises EngineError."""
    found = engine.call(
        f"searching for disks named {alias!r}",
        lambda system: system.disks_service().list(search=f"alias={alias}"),
    )
    disks = []
    for each in found:
        try:
            disks.append(get_disk(engine, required(each.id, "a disk's id")))
        except NoSuchDisk:
            engine.log.debug("disk %s has just disappeared", each.id)
    return sorted(disks, key=lambda disk: disk.id)


def _post(engine: Engine, source: Disk, alias: str, domain_id: str, profile_id: str | None) -> None:
    profile = None if profile_id is None else types.DiskProfile(id=profile_id)
    try:
        engine.call(
            f"copying disk {source.name!r}",
            lambda system: (
                system.disks_service()
                .disk_service(source.id)
                .copy(
                    disk=types.Disk(name=alias, alias=alias),
                    storage_domain=types.StorageDomain(id=domain_id),
                    disk_profile=profile,
                )
            ),
            idempotent=False,
        )
    except EngineFault as fault:
        # The answer may be lost, or the SDK may have sent the request twice: check whether the copy exists.
        if not disks_with_alias(engine, alias):
            if fault.busy:
                raise faults.as_busy(fault) from fault
            raise
        engine.log.info("%s; a disk named %s exists nevertheless, continuing", fault.message, alias)


def _appeared(engine: Engine, source: Disk, alias: str) -> Disk:
    for _ in pauses(_APPEARS_S, engine.poll_interval_s):
        found = disks_with_alias(engine, alias)
        if len(found) > 1:
            raise EngineError(
                f"{len(found)} disks are named {alias!r}: pitr cannot tell which one is the copy"
            )
        if found:
            return found[0]
    raise EngineError(
        f"the engine accepted to copy disk {source.name!r}, but no disk {alias!r} has appeared",
        "Check the engine's events.",
    )


def _remove_own(engine: Engine, alias: str, error: BaseException) -> None:
    """Remove the copy after `error`. The alias was free before, so the only disk with it is the copy."""
    try:
        found = disks_with_alias(engine, alias)
    except EngineError as problem:
        error.add_note(f"if the engine has made a disk {alias!r}, remove it by hand: {problem}")
        return
    if len(found) > 1:
        error.add_note(f"{len(found)} disks are named {alias!r}; pitr removed none of them")
        return
    for copy in found:
        try:
            delete_disk(engine, copy.id, _REMOVAL_S)
        except EngineError as problem:
            error.add_note(
                f"cannot remove the copy {alias!r} ({copy.id}), remove it by hand once it is unlocked: {problem}"
            )
