# SPDX-License-Identifier: GPL-2.0-or-later
"""Commit a backup: store the VM's configuration, then the record, which makes it a point.

Hosts that share no locks agree by the objects alone (docs/design.md).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from blake3 import blake3

from pitr.errors import BaseRemoved, FormatError, RepositoryError
from pitr.model import Backup, Record, StoredObject, VMName
from pitr.repository import canonical, commit_notes, configurations, names, record, tombstones
from pitr.repository.catalog import owners
from pitr.repository.pairs import PENDING
from pitr.repository.store import ObjectMissing, may_be_stored
from pitr.text import printable

if TYPE_CHECKING:
    from pitr.repository.catalog import Catalog
    from pitr.repository.repository import Repository

_log = logging.getLogger(__name__)
#: A run gives up after half the grace time, but never sooner: shorter grace times are for trials.
_SHORTEST_RUN = timedelta(minutes=1)


def commit(repository: Repository, new: Record) -> Backup:
    """Commit a backup after all its streams. Return it with the reference to its configuration.

    Raises FormatError for a record that no reader would accept, BaseRemoved if another host removes what the backup is
    based on, and RepositoryError.
    """
    backup, configuration = configurations.referred_to(repository.store, new)
    stored = record.encode(backup)
    if len(stored) > canonical.MAX_SIZE or record.decode(stored) != backup:
        raise FormatError(f"pitr could not read the record of backup {backup.backup_id} again")
    name = names.record(backup.vm.id, backup.point, backup.backup_id)
    siblings = _siblings(repository, backup)
    of_base = repository.path != repository.location and _has_configuration_of_base(repository, backup)
    with configurations.stored(repository.store, repository.path, configuration, is_known=of_base) as is_new:
        noted = commit_notes.add(repository.store, backup)
        check = _Check(repository, backup)
        if repository.removes_later:
            check.all(repository.store.written(noted))
        _store(repository, backup, name, stored)
        if configuration is not None and not is_new and repository.removes_later:
            _keep_configuration(repository, backup, configuration)
        # Here, because who removes configurations next asks the catalog which ones are used.
        _add_to_catalog(repository, backup, name, stored, check)
    if repository.path != repository.location:
        # A catalog that cannot be read now does not undo the commit.
        with suppress(RepositoryError):
            _tell_of(_siblings(repository, backup) - siblings - {backup.backup_id}, backup)
    return backup


def _add_to_catalog(repository: Repository, backup: Backup, name: str, stored: bytes, check: _Check) -> None:
    try:
        entry = (backup, StoredObject(len(stored), blake3(stored).hexdigest()))
        if repository.keyring is not None:
            # The catalog of a host that cannot read holds no names either.
            entry = repository.read_record(name)
        repository.opened_catalog().add(entry[0], name, entry[1])
        if repository.path != repository.location and backup.parent_id is not None:
            # After the record: of two hosts that commit at the same time, at least one sees the point of the other.
            repository.opened_catalog().again(backup.vm.id, check.buried.get(backup.vm.id))
    except RepositoryError:
        # The record is the commit. The catalog adds it when it is opened again.
        repository.forget_catalog()


class _Check:
    """The checks right before the record of a backup.

    They are enough because no sweep removes what got its tombstone less than the grace time ago.
    """

    def __init__(self, repository: Repository, backup: Backup) -> None:
        self._repository = repository
        self._store = repository.store
        self._backup = backup
        self._now = datetime.min
        #: The tombstones that were listed, by VM.
        self.buried: dict[str, dict[str, datetime]] = {}
        self._listed: dict[str, set[str]] = {}

    def all(self, now: datetime) -> None:
        """Raise BaseRemoved if the backup must not be committed; it is `now` by the store's clock."""
        self._now = now
        if self._repository.grace > timedelta():
            self._age()
        if self._backup.parent_id is not None:
            self._base(self._backup.parent_id)
        own = {stream.stream_id for stream in self._backup.streams}
        used = {part.stream_id for stream in self._backup.streams for part in stream.parts}
        for stream_id in sorted(used - own):
            self._part(stream_id)

    def _age(self) -> None:
        limit = max(self._repository.grace / 2, _SHORTEST_RUN)
        if self._now - self._begun() > limit:
            raise self._refused(
                "the run took longer than half the grace time of removals, so another host may remove its data",
                "Run it again. If it always takes so long, use a repository with a longer grace time: pitr init "
                "--grace 14d.",
            )

    def _begun(self) -> datetime:
        """Return when the run had stored nothing yet, by the store's clock."""
        try:
            return self._store.written(
                names.control(PENDING.begun, self._backup.vm.id, self._backup.backup_id)
            )
        except ObjectMissing:
            # Only the engine's backups have such a note, and it goes when they end.
            pass
        stored = [names.index(stream.disk_id, stream.stream_id) for stream in self._backup.streams]
        stored += [
            names.blob(stream.disk_id, stream.stream_id)
            for stream in self._backup.streams
            if stream.blob is not None and stream.external is None
        ]
        try:
            return min(map(self._store.written, stored), default=self._now)
        except ObjectMissing as error:
            raise self._refused(
                f"{error.name}, which it stored, is removed", "Run it again: this run took too long."
            ) from None

    def _base(self, parent_id: str) -> None:
        catalog = self._repository.opened_catalog()
        known = catalog.known_record(parent_id)
        if known is None:
            instead = self._repository.catalog_of_vm(self._backup.vm.id).stand_in(parent_id)
            known = catalog.known_record(instead.backup_id) if instead is not None else None
        if known is None:
            # A recovered point may be based on one that is lost.
            return
        vm_id = self._backup.vm.id
        if known.backup_id in self._buried(vm_id) or not self._is_stored(vm_id, known.backup_id):
            raise self._refused(
                f"the point that it is based on, {known.backup_id}, is removed",
                "Run it again: it is then based on another point.",
            )

    def _part(self, stream_id: str) -> None:
        """Check a stream whose frames the backup uses. Its blob stays until the record of the backup names it, too."""
        if not any(
            self._is_stored(vm_id, backup_id)
            and (
                backup_id not in self._buried(vm_id)
                or self._now - self._buried(vm_id)[backup_id] < self._repository.grace / 2
            )
            for vm_id, backup_id in owners.of_blob(self._catalogs(), stream_id)
        ):
            raise self._refused(f"the data of stream {stream_id}, which it uses, is removed", "Run it again.")

    def _catalogs(self) -> list[Catalog]:
        opened = self._repository.opened_catalog()
        return [opened.of_id(self._backup.vm.id), opened.hidden_rows(self._backup.vm.id)[0]]

    def _buried(self, vm_id: str) -> dict[str, datetime]:
        if vm_id not in self.buried:
            self.buried[vm_id] = tombstones.of_vm(self._store, vm_id)
        return self.buried[vm_id]

    def _is_stored(self, vm_id: str, backup_id: str) -> bool:
        if vm_id not in self._listed:
            # After the tombstones: a point that is swept in between has a tombstone or no record.
            self._buried(vm_id)
            self._listed[vm_id] = set(self._store.list(names.records_of(vm_id)))
        return any(names.backup_of_record(name) == backup_id for name in self._listed[vm_id])

    def _refused(self, why: str, advice: str) -> BaseRemoved:
        vm: VMName = self._backup.vm
        return BaseRemoved(f"the new point of VM {printable(vm.name)} was not committed: {why}", advice)


def _keep_configuration(repository: Repository, backup: Backup, configuration: bytes) -> None:
    """Store a configuration again if a sweep removed it, which saw neither this record nor another one with it."""
    # No sweep removes what the base refers to, which is not removed.
    if not _has_configuration_of_base(repository, backup):
        configurations.add(repository.store, configuration)


def _has_configuration_of_base(repository: Repository, backup: Backup) -> bool:
    base = repository.catalog_of_vm(backup.vm.id).get(backup.parent_id) if backup.parent_id else None
    return base is not None and base.configuration == backup.configuration


def _siblings(repository: Repository, backup: Backup) -> set[str]:
    """Return the ids of the known points with the same base."""
    if backup.parent_id is None:
        return set()
    return owners.children(repository.opened_catalog().of_id(backup.vm.id), backup.parent_id)


def _tell_of(others: Iterable[str], backup: Backup) -> None:
    """Warn of points that other hosts committed on the same base meanwhile. One of two hosts always sees the other."""
    for other in sorted(others):
        _log.warning(
            "VM %s: point %s has the same base as the new point %s: two hosts back up this VM. Both points are good",
            printable(backup.vm.name),
            other,
            backup.backup_id,
        )


def _store(repository: Repository, backup: Backup, name: str, stored: bytes) -> None:
    streams = {stream.stream_id for stream in backup.streams}
    # From here on, the record may be stored although a signal or an error comes.
    repository.recorded |= streams
    try:
        repository.store.create(name, stored)
    except BaseException:
        if not may_be_stored(repository.store, name, stored):
            repository.recorded -= streams
        raise
