# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the chains of a point without reading blobs: all objects exist by name and size, and no check found damage."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from pitr import times
from pitr.errors import NoFittingIdentity
from pitr.jobs import known_damage
from pitr.model import Backup, Stream
from pitr.reporting import Notify
from pitr.repository import Repository, findings, names
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage
from pitr.repository.fewer_requests import take_as_read

CHECK = "backup"


def damaged_chains(repository: Repository, backup: Backup, notify: Notify | None) -> Mapping[str, str]:
    """Return why no incremental can be based on the disks with a damaged chain, in words, by disk id.

    pitr also stores damage that is new as findings; with `notify` None, for a dry run, it stores nothing. Raises
    StoredDamage if the record itself is missing or changed.
    """
    read = _listed_records(repository, backup)
    try:
        if backup.backup_id not in read:
            repository.record_of(backup.backup_id)
    except StoredDamage as error:
        _remember(repository, backup, error, notify)
        raise
    known = known_damage.losses(repository, backup.vm.id)
    reasons: dict[str, str] = {}
    for stream in backup.streams:
        of_disk = [loss for loss in known if loss.concerns(backup, {stream.disk_id})]
        if of_disk:
            item = findings.read(repository.store, of_disk[0].finding)
            reasons[stream.disk_id] = in_words(repository, item.damage, item.check)
            continue
        try:
            _check_present(repository, backup, stream, read)
        except StoredDamage as error:
            _remember(repository, backup, error, notify)
            reasons[stream.disk_id] = in_words(repository, error.damage)
    return reasons


def in_words(repository: Repository, damage: Damage, check: str | None = None) -> str:
    """Return the damage as the reason for a full: the damaged backup with its time, and what is wrong.

    `check` is the check that found it earlier.
    """
    owner = repository.catalog.get(damage.backup_id or "")
    backup = f"backup of {times.for_people(owner.point)}" if owner is not None else "backup"
    article = "a" if damage.what == "frame" else "the"
    found = f", found by {check}" if check is not None else ""
    return f"its chain is damaged: {article} {damage.what} of the {backup} ({damage.backup_id}) is {damage.kind}{found}"


def _remember(repository: Repository, backup: Backup, error: StoredDamage, notify: Notify | None) -> None:
    if notify is not None and not isinstance(error, CatalogDiffers):
        known_damage.remember(repository, backup.vm.id, CHECK, [error.damage], notify)


def _listed_records(repository: Repository, backup: Backup) -> dict[str, Backup]:
    """Return the VM's points whose records a list shows with their sizes; none in a folder, where reading is quick.

    A request for each record of a long chain would take longer than many backups.
    """
    if repository.path == repository.location:
        return {}
    vm_id = backup.vm.id
    catalog = repository.catalog_of_vm(vm_id)
    sizes = repository.opened_catalog().record_sizes(vm_id)
    known = catalog.known(vm_id).values()
    there = {each.backup_id: each for each in known if sizes.get(each.name) == each.record.size}
    listed = {each.backup_id: each for each in catalog.points(vm_id) if each.backup_id in there}
    take_as_read(repository, ((there[backup_id], each) for backup_id, each in listed.items()))
    return listed


def _check_present(
    repository: Repository, backup: Backup, stream: Stream, read: Mapping[str, Backup]
) -> None:
    listed: dict[str, int] = {}
    if repository.path != repository.location and not (repository.keyring is not None and repository.opens):
        # Two requests instead of two for each stream of the chain.
        for folder in (names.BLOBS, names.INDEXES):
            objects = repository.store.listed(f"{folder}/{stream.disk_id}")
            listed |= {each.name: each.size for each in objects}
    for owner, part in repository.chain(backup, stream, read):
        # A blob that the record uses may be sealed to others: it is there.
        with suppress(NoFittingIdentity):
            repository.check_sizes(owner, part, listed)
