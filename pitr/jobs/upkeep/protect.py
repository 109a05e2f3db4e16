# SPDX-License-Identifier: GPL-2.0-or-later
"""Extend the protection of points from removal, and tell how long they are still protected.

A point needs its whole chain, so the protection of all objects of the chain is extended: records, configurations,
indexes, blobs and the blobs that its streams use frames of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from pitr import times
from pitr.errors import Interrupted, PitrError, UsageError
from pitr.jobs.upkeep.protected import Protected
from pitr.jobs.upkeep.pruned import FailedRemoval, Pruned
from pitr.model import Backup, VMName, parents_of
from pitr.repository import Repository, names, removed_points
from pitr.repository.protection import locked_store, stored_name
from pitr.repository.store import ObjectMissing

if TYPE_CHECKING:
    from pitr.repository.store.locked_store import LockedStore

T = TypeVar("T")
R = TypeVar("R")
_REQUESTS = 8


def protect_kept(repository: Repository, vms: Sequence[VMName], result: Pruned, *, dry_run: bool) -> None:
    """Extend the protection of the points of these VMs, where the repository has a lock. A failure is in `result`.

    Raises Interrupted.
    """
    if repository.lock is None:
        return
    try:
        result.protected = protect(repository, vms, slack=slack_of(repository), dry_run=dry_run)
    except Interrupted:
        raise
    except PitrError as error:
        result.failed.append(FailedRemoval(None, error))


@dataclass(frozen=True, slots=True)
class LeastProtected:
    """The object of kept points whose protection ends first. `until` is None if it is not protected."""

    name: str
    vm: VMName | None
    until: datetime | None


def protect(
    repository: Repository,
    vms: Sequence[VMName],
    until: datetime | None = None,
    *,
    slack: timedelta = timedelta(),
    dry_run: bool = False,
) -> Protected:
    """Protect the points of these VMs at least until then; None for the period of the repository's lock from now.

    An object whose protection ends at most `slack` earlier is left as it is. Raises UsageError for a repository
    without a lock, and RepositoryError.
    """
    store = _store(repository)
    end = until if until is not None else times.now() + store.lock.period
    points, objects = 0, {names.REPOSITORY}
    for vm in vms:
        visible = repository.catalog_of_vm(vm.id).points(vm.id)
        points += len(visible)
        objects |= _objects(repository, vm, visible)

    def extend(name: str) -> bool | None:
        try:
            current = store.protection(name)
            if current is not None and current >= end - slack:
                return False
            if not dry_run:
                store.protect(name, end)
        except ObjectMissing:
            return None
        return True

    results = list(zip(objects, _for_each(extend, objects), strict=True))
    return Protected(
        end,
        points,
        len(objects),
        sum(1 for _, done in results if done),
        tuple(sorted(name for name, done in results if done is None)),
    )


def least_protected(
    repository: Repository, vms: Sequence[VMName], *, ask: bool = False
) -> LeastProtected | None:
    """Return the object of the VMs' points whose protection ends first; None without a lock.

    `ask` the store about each object; otherwise only about those that this host does not know. Raises RepositoryError.
    """
    store = locked_store(repository)
    if store is None:
        return None
    owners: dict[str, VMName | None] = {names.REPOSITORY: None}
    for vm in vms:
        visible = repository.catalog_of_vm(vm.id).points(vm.id)
        owners |= dict.fromkeys(_objects(repository, vm, visible), vm)
    known: dict[str, datetime | None] = {}
    if not ask:
        known |= store.known_protection.of(owners)
    unknown = [name for name in owners if name not in known]

    def read(name: str) -> tuple[bool, datetime | None]:
        try:
            return True, store.protection(name)
        except ObjectMissing:
            # Damage, which `verify` tells.
            return False, None

    for name, (exists, found) in zip(unknown, _for_each(read, unknown), strict=True):
        if exists:
            known[name] = found
    if not known:
        return None
    name, end = min(known.items(), key=lambda item: (item[1] is not None, item[1] or times.now(), item[0]))
    return LeastProtected(name, owners[name], end)


def slack_of(repository: Repository) -> timedelta:
    """Return how much of the period may pass before `prune` extends a protection again."""
    return repository.lock.period / 4 if repository.lock is not None else timedelta()


def _store(repository: Repository) -> LockedStore:
    store = locked_store(repository)
    if store is None:
        raise UsageError(
            "the repository does not protect objects",
            "Create one with 'pitr init s3://… --lock compliance:30d', and copy the points with 'pitr replicate'.",
        )
    return store


def _objects(repository: Repository, vm: VMName, visible: Sequence[Backup]) -> set[str]:
    """Return the names of all objects that the points need, those of hidden points in their chains, too."""
    hidden = [each.backup for each in removed_points.of_vm(repository, vm.id)]
    by_id = {each.backup_id: each for each in (*visible, *hidden)}
    parents = parents_of([*visible, *hidden])
    needed: dict[str, Backup] = {}
    waiting = [each.backup_id for each in visible]
    while waiting:
        backup = by_id.get(waiting.pop())
        if backup is None or backup.backup_id in needed:
            continue
        needed[backup.backup_id] = backup
        waiting += [each for each in (parents.get(backup.backup_id), backup.parent_id) if each is not None]
    return {stored_name(repository, name) for backup in needed.values() for name in _objects_of(backup)}


def _objects_of(backup: Backup) -> Iterator[str]:
    yield names.record(backup.vm.id, backup.point, backup.backup_id)
    if backup.configuration is not None:
        yield names.configuration(backup.configuration.digest)
    for stream in backup.streams:
        yield names.index(stream.disk_id, stream.stream_id)
        if stream.index_copy is not None:
            yield names.index_copy(stream.disk_id, stream.stream_id)
        if stream.blob is not None and stream.external is None:
            yield names.blob(stream.disk_id, stream.stream_id)
        for part in stream.parts:
            yield names.blob(part.disk_id, part.stream_id)


def _for_each(action: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return the results in order. The requests go out several at once."""
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        return list(pool.map(action, items))
    finally:
        # After a signal, nobody waits for requests that have not begun.
        pool.shutdown(wait=False, cancel_futures=True)
