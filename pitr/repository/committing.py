# SPDX-License-Identifier: GPL-2.0-or-later
"""Commit a backup: store the VM's configuration, then the record, which makes it a point.

Hosts that share no locks agree by the objects alone (docs/design.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, Record, StoredObject
from pitr.repository import canonical, commit_notes, configurations, names, record
from pitr.repository.store import may_be_stored

if TYPE_CHECKING:
    from pitr.repository.repository import Repository


def commit(repository: Repository, new: Record) -> Backup:
    """Commit a backup after all its streams. Return it with the reference to its configuration.

    Raises FormatError for a record that no reader would accept, and RepositoryError.
    """
    backup, configuration = configurations.referred_to(repository.store, new)
    stored = record.encode(backup)
    if len(stored) > canonical.MAX_SIZE or record.decode(stored) != backup:
        raise FormatError(f"pitr could not read the record of backup {backup.backup_id} again")
    name = names.record(backup.vm.id, backup.point, backup.backup_id)
    with configurations.stored(repository.store, repository.path, configuration):
        commit_notes.add(repository.store, backup)
        _store(repository, backup, name, stored)
    try:
        entry = (backup, StoredObject(len(stored), blake3(stored).hexdigest()))
        if repository.keyring is not None:
            # The catalog of a host that cannot read holds no names either.
            entry = repository.read_record(name)
        repository.catalog.add([(entry[0], name, entry[1])])
    except RepositoryError:
        # The record is the commit. The catalog adds it when it is opened again.
        repository.forget_catalog()
    return backup


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
