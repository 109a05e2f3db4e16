# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipients of a sealed repository: list, change and check them.

A change begins a new epoch: what is stored from then on is sealed to the new recipients. Nothing is sealed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pitr.errors import RepositoryError, UsageError
from pitr.repository import Repository
from pitr.repository.sealed import needing_cryptography
from pitr.repository.sealing import identities
from pitr.repository.store import ObjectExists

if TYPE_CHECKING:
    from pitr.repository.sealing.keyring import KeyEpoch, Keyring
    from pitr.repository.sealing.keys import Recipient


@dataclass(frozen=True, slots=True)
class ListedRecipient:
    """A recipient of an epoch. `opens`: an identity of this process is its other half."""

    recipient: str
    fingerprint: str
    opens: bool


@dataclass(frozen=True, slots=True)
class ListedEpoch:
    """An epoch. `trusted`: this host seals to its recipients."""

    number: int
    created: str
    trusted: bool
    recipients: tuple[ListedRecipient, ...]

    @property
    def opens(self) -> bool:
        return any(each.opens for each in self.recipients)


@dataclass(frozen=True, slots=True)
class NewRecipients:
    """Recipients, and the objects (name, bytes) of new identities among them that the repository keeps protected."""

    recipients: tuple[str, ...]
    protected: tuple[tuple[str, bytes], ...] = ()

    def keep(self, repository: Repository) -> None:
        """Store the protected identities. Raises RepositoryError."""
        for name, data in self.protected:
            repository.store.create(name, data)


def new_recipients(texts: Sequence[str]) -> NewRecipients:
    """Return the recipients. 'passphrase' and the recipients of plugins stand for new ones, which these protect.

    Raises UsageError, and ProgramMissing and ProgramFailed for a plugin.
    """
    if not texts:
        return NewRecipients(())
    with needing_cryptography():
        from pitr.repository.sealing import passphrases, plugins  # noqa: PLC0415 - the extra may be missing
        from pitr.repository.sealing.keys import Identity  # noqa: PLC0415 - the extra may be missing
    recipients: list[str] = []
    protected: list[tuple[str, bytes]] = []
    for text in dict.fromkeys(texts):
        if text != identities.PASSPHRASE and not plugins.is_recipient(text):
            recipients.append(str(_parsed(text)))
            continue
        identities.keep_out_of_core_dumps()
        made = Identity.generate()
        recipients.append(str(made.recipient))
        if text == identities.PASSPHRASE:
            protected.append(passphrases.protected(made, identities.settings().new_passphrase()))
        else:
            protected.append(plugins.protected(made, text))
    return NewRecipients(tuple(dict.fromkeys(recipients)), tuple(protected))


def keyring_of(repository: Repository) -> Keyring:
    """Return the keys. Raises UsageError for a repository that is not sealed."""
    if repository.keyring is None:
        raise UsageError("the repository is not sealed", "'pitr init --encrypt RECIPIENT' makes one that is.")
    return repository.keyring


def listed(repository: Repository) -> list[ListedEpoch]:
    """Return all epochs, the current one last. Raises UsageError."""
    keys = keyring_of(repository)
    trusted = set(keys.trusted())
    return [
        ListedEpoch(
            epoch.number,
            epoch.created,
            epoch is keys.current and bool(trusted),
            tuple(
                ListedRecipient(str(each), each.fingerprint, each in keys.held) for each in epoch.recipients
            ),
        )
        for epoch in keys.epochs
    ]


def add(repository: Repository, text: str) -> KeyEpoch:
    """Seal to one more recipient from now on. Raises UsageError, RepositoryError."""
    current = keyring_of(repository).recipients()
    new = new_recipients([text])
    added = _parsed(new.recipients[0])
    if added in current:
        raise UsageError(f"{added} is a recipient already", "'pitr key list' shows all.")
    new.keep(repository)
    return _begin(repository, (*current, added))


def remove(repository: Repository, named: str) -> KeyEpoch:
    """Seal to one recipient less from now on, named by its text or fingerprint. Raises UsageError, RepositoryError."""
    current = keyring_of(repository).recipients()
    rest = tuple(each for each in current if named not in (str(each), each.fingerprint))
    if len(rest) == len(current):
        raise UsageError(f"{named!r} is no recipient", "'pitr key list' shows all.")
    if not rest:
        raise UsageError(
            "a sealed repository needs a recipient", "Add another one first, with 'pitr key add'."
        )
    return _begin(repository, rest)


def rotate(repository: Repository, texts: Sequence[str]) -> KeyEpoch:
    """Seal to exactly these recipients from now on. Raises UsageError, RepositoryError."""
    keyring_of(repository).recipients()
    new = new_recipients(texts)
    recipients = tuple(dict.fromkeys(_parsed(text) for text in new.recipients))
    new.keep(repository)
    return _begin(repository, recipients)


def new_identity(recipients: list[str]) -> str:
    """Make an identity, add its recipient to `recipients`, and return the identity. Raises UsageError."""
    with needing_cryptography():
        from pitr.repository.sealing.keys import Identity  # noqa: PLC0415 - the extra may be missing
    for text in recipients:
        _parsed(text)
    made = Identity.generate()
    recipients.append(str(made.recipient))
    return made.secret()


def _parsed(text: str) -> Recipient:
    from pitr.repository.sealing.keys import Recipient  # noqa: PLC0415 - the extra may be missing

    return Recipient.parse(text)


def _begin(repository: Repository, recipients: tuple[Recipient, ...]) -> KeyEpoch:
    from pitr.repository.sealing import keyring  # noqa: PLC0415 - the extra may be missing

    keys = keyring_of(repository)
    try:
        begun = keyring.add_epoch(repository.store, keys.current.number + 1, recipients)
    except ObjectExists:
        raise RepositoryError(
            "somebody else has just changed the recipients", "Look at them with 'pitr key list'."
        ) from None
    keyring.pin(keys.folder, recipients)
    return begun
