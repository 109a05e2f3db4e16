# SPDX-License-Identifier: GPL-2.0-or-later
"""How a replication treats keys: it copies sealed objects as they are, or seals what it copies.

Copies for the same recipients need no identity. For other recipients, and from a repository in the open, all content is
sealed on the way. Content is opened on the way only with an identity, and only into a repository in the open that
somebody has made with `init`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pitr.errors import UsageError
from pitr.model import known_name
from pitr.repository import Repository, canonical, configurations, marker, names, sealed
from pitr.repository import location as locations
from pitr.repository.location import Location

if TYPE_CHECKING:
    from pitr.jobs.replicate.plan import Missing, Plan
    from pitr.model import Backup
    from pitr.repository.sealing.keyring import Keyring


def make_target(source: Repository, location: Location) -> None:
    """Make the target as a copy of the source: sealed to the same recipients, or in the open.

    Raises RepositoryError, also if this host does not trust the recipients of the source.
    """
    keys, origin = source.keyring, marker.read(source.location, source.store).origin
    if keys is None:
        marker.create(location, origin=origin)
        return
    from pitr.repository.sealing import keyring, passphrases, plugins  # noqa: PLC0415 - the extra may be missing

    current = keys.recipients()
    texts = [str(recipient) for recipient in keys.epochs[0].recipients]
    made = marker.create(location, origin=origin, recipients=texts)
    target = locations.opened(location, locations.scratch_state())
    try:
        for epoch in keys.epochs[1:]:
            keyring.add_epoch(target, epoch.number, epoch.recipients)
        listed = list(source.store.list(names.KEYS))
        for name in (*passphrases.stored_in(listed), *plugins.stored_in(listed)):
            target.create(name, source.store.read(name, limit=canonical.MAX_SIZE))
    finally:
        target.close()
    keyring.pin(locations.private_state(made), current)


def prepare(source: Repository, target: Repository, *, repair: bool) -> None:
    """Let both stores give and take objects in the same form. Raises UsageError, RepositoryError, NoFittingIdentity."""
    keys, of_target = source.keyring, target.keyring
    where = locations.text(target.location)
    if of_target is None:
        if keys is not None:
            _check_opened(keys, where, repair=repair)
        return
    of_target.recipients()
    if keys is not None and _same(keys, of_target):
        sealed.copy_as_stored(source)
        sealed.copy_as_stored(target)
        return
    if repair:
        raise UsageError(
            f"the target {where} is sealed to others than the source: its objects have other bytes, and cannot be "
            "repaired from the source",
            "Repair it from a copy that is sealed to the same recipients.",
        )
    source.check_opens()
    of_target.forget_identities()
    target.forget_catalog()
    sealed.seal_copies(target)


def _check_opened(keys: Keyring, where: str, *, repair: bool) -> None:
    """Check that content may be opened on the way into a target in the open. Raises UsageError, NoFittingIdentity."""
    if repair:
        raise UsageError(
            f"the target {where} is not sealed, and the source is: its objects have other bytes, and cannot be "
            "repaired from the source",
            "Repair it from a copy that is not sealed.",
        )
    if not keys.opens:
        raise keys.refusal(f"the target {where} is not sealed, so the copy needs an identity of the source")


def translates(source: Repository, target: Repository) -> bool:
    """Return whether the target's objects have other bytes than the source's: sealed, or opened, on the way."""
    return sealed.seals_copies(target.store) or (source.keyring is not None and target.keyring is None)


def drop_unopened(plan: Plan) -> int:
    """Drop the points of a plan whose records no identity opens, and those based on them. Return how many."""
    lost: set[str | None] = set()
    kept: list[Missing] = []
    for missing in plan.points:
        backup = missing.backup
        if known_name(backup.vm.name) is None or backup.parent_id in lost:
            lost |= {backup.backup_id, backup.known_as}
        else:
            kept.append(missing)
    dropped = len(plan.points) - len(kept)
    plan.points[:] = kept
    return dropped


def sealed_again(
    source: Repository, target: Repository, backup: Backup, record: bytes
) -> tuple[bytes, bytes | None]:
    """Return a plain record for the target, and the bytes of its configuration to store.

    Raises StoredDamage, NoFittingIdentity.
    """
    text = configurations.read(source.store, backup)
    if text is None:
        return record, None
    stored = configurations.to_store(target.store, text)
    described = configurations.described(stored)
    document = canonical.parse(record)
    del document["digest"]
    document["configuration"] |= {"size": described.size, "digest": described.digest}
    return canonical.encode(document), stored


def _same(one: Keyring, other: Keyring) -> bool:
    """Return whether objects of both are sealed to the same recipients in all epochs."""
    return [set(epoch.recipients) for epoch in one.epochs] == [
        set(epoch.recipients) for epoch in other.epochs
    ]
