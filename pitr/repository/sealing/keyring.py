# SPDX-License-Identifier: GPL-2.0-or-later
"""The keys of a sealed repository: its epochs of recipients, what this host has pinned, and the identities that fit.

Who can write to the store can also change what it says about recipients. So a host seals only to recipients that it has
pinned, or that its configuration names, and refuses to write if the repository names others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
from blake3 import blake3

from pitr import times
from pitr.errors import FormatError, NoFittingIdentity, PitrError, RepositoryError, UsageError
from pitr.repository import canonical, names
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.sealing.identities import KeySettings
from pitr.repository.sealing.keys import Identity, Recipient
from pitr.repository.store.base import Store
from pitr.system.replace_file import replace_file

FORMAT = 1
_SCHEMA = "keys.schema.json"
_PINS = "recipients.json"
_MAX_PINS = 1 << 20
#: A message has room for fewer whole recipients than this, if it is to have four lines.
_MANY = 3


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """The recipients that objects are sealed to from some moment on."""

    number: int
    recipients: tuple[Recipient, ...]
    created: str


def add_epoch(store: Store, number: int, recipients: Sequence[Recipient]) -> KeyEpoch:
    """Begin an epoch. Raises RepositoryError, ObjectExists if another host has just begun it."""
    created = times.to_text(times.now())
    document = {
        "format": FORMAT,
        "epoch": number,
        "recipients": [str(recipient) for recipient in recipients],
        "created": created,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    store.create(names.key_epoch(number), stored)
    return KeyEpoch(number, tuple(recipients), created)


def epochs_of(store: Store, listed: Iterable[str]) -> list[KeyEpoch]:
    """Return the epochs, the first one first. Raises StoredDamage for a damaged or missing one.

    `listed` are the names of all objects below `keys`.
    """
    listed = sorted(
        name
        for name in listed
        if not any(names.is_protected_identity(name, plugin=plugin) for plugin in (False, True))
    )
    epochs: list[KeyEpoch] = []
    for number, name in enumerate(listed, 1):
        try:
            if name != names.key_epoch(number):
                raise FormatError("an epoch before it is missing")
            document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
            if document["epoch"] != number:
                raise FormatError(f"it is epoch {document['epoch']}")
            recipients = tuple(Recipient.parse(text) for text in document["recipients"])
        except (FormatError, UsageError) as error:
            raise StoredDamage(_damage(f"the key file {name} is damaged: {error.message}")) from None
        epochs.append(KeyEpoch(number, recipients, document["created"]))
    if not epochs:
        raise StoredDamage(_damage("the repository is sealed, but its key files are missing"))
    return epochs


def _damage(message: str) -> Damage:
    return Damage(None, None, None, "corrupt", "record", message)


def pinned(folder: Path) -> tuple[Recipient, ...] | None:
    """Return the recipients that this host has pinned; None if it has not. Raises RepositoryError.

    `folder` is this user's state of the repository.
    """
    path = folder / _PINS
    try:
        with path.open("rb") as file:
            document = orjson.loads(file.read(_MAX_PINS))
        return tuple(Recipient.parse(text) for text in document["recipients"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PitrError):
        raise RepositoryError(
            f"cannot read {path}, the recipients that this host has pinned",
            "Mend it, or remove it and pin them again with --trust-recipients.",
        ) from None


def pin(folder: Path, recipients: Sequence[Recipient]) -> None:
    """Pin the recipients on this host. Raises PitrError."""
    document = {"recipients": [str(recipient) for recipient in recipients]}
    replace_file(folder / _PINS, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n", 0o600)


class Keyring:
    """The keys of one sealed repository, as this process has them. `folder` is this user's state of the repository.

    `stored` are the identities of the repository that were opened with a passphrase or a plugin. `has_passphrase` tells
    whether a passphrase protects some.
    """

    def __init__(
        self,
        epochs: Sequence[KeyEpoch],
        settings: KeySettings,
        folder: Path,
        stored: Sequence[Identity] = (),
        *,
        has_passphrase: bool = False,
    ) -> None:
        self.epochs = tuple(epochs)
        self.folder = folder
        known = {recipient for epoch in epochs for recipient in epoch.recipients}
        given = [*settings.identities(), *stored]
        self.has_passphrase = has_passphrase
        self.identities: tuple[Identity, ...] = tuple(each for each in given if each.recipient in known)
        #: Whether the user has named an identity, which may not fit.
        self.given = settings.names_identity
        self._configured = tuple(Recipient.parse(text) for text in settings.recipients)
        if settings.trust:
            pin(folder, self.current.recipients)
        self._pinned = pinned(folder)

    @property
    def current(self) -> KeyEpoch:
        """The epoch that objects are sealed to now."""
        return self.epochs[-1]

    @property
    def held(self) -> frozenset[Recipient]:
        """The recipients whose identities this process has."""
        return frozenset(identity.recipient for identity in self.identities)

    @property
    def opens(self) -> bool:
        """Whether this process can read content."""
        return bool(self.identities)

    @property
    def opens_all(self) -> bool:
        """Whether this process can read the content of all epochs."""
        return len(self._opened()) == len(self.epochs)

    def _opened(self) -> list[KeyEpoch]:
        return [epoch for epoch in self.epochs if not self.held.isdisjoint(epoch.recipients)]

    def catalog_path(self, nameless: Path) -> Path:
        """Return the path of the catalog: this user's own if an identity opens names. Raises RepositoryError.

        `nameless` is the path of the one that all users share. No file of the repository may hold a name.
        """
        if not self.opens:
            return nameless
        # A record has other bytes once it is opened: identities that do not open all have a catalog of their own.
        some = "" if self.opens_all else "-".join(str(epoch.number) for epoch in self._opened())
        folder = self.folder / f"opened{some and '-' + blake3(some.encode()).hexdigest(length=8)}"
        try:
            (folder / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(f"cannot create {folder}: {error.strerror}") from error
        return folder / nameless.name

    def recipients(self) -> tuple[Recipient, ...]:
        """Return the recipients to seal to. Raises RepositoryError if this host has no reason to trust them."""
        trusted = self._configured or self._pinned
        named = self.current.recipients
        if trusted is None:
            raise RepositoryError(
                "this host has not pinned the recipients of the repository, and seals nothing to them: "
                f"{described(named)}",
                "Compare them with 'pitr key list' on the host that made it, then run the command with "
                "--trust-recipients.",
            )
        if set(trusted) != set(named):
            raise RepositoryError(
                f"the repository names other recipients ({described(named)}) than this host trusts "
                f"({described(trusted)})",
                "If somebody you trust changed them ('pitr key list'), pin them with --trust-recipients, or "
                "correct [encryption] recipients. Otherwise somebody tries to read your backups.",
            )
        return named

    def trusted(self) -> tuple[Recipient, ...]:
        """Return the recipients to seal to; none if this host does not trust them."""
        with suppress(RepositoryError):
            return self.recipients()
        return ()

    def forget_identities(self) -> None:
        """Let this process open nothing more: what it reads from now on is sealed."""
        self.identities = ()

    def check_opens(self) -> None:
        """Raise NoFittingIdentity, which names the recipients, if this process cannot read content."""
        if not self.opens:
            raise self.refusal()

    def refusal(self, what: str = "the repository is sealed") -> NoFittingIdentity:
        """Return the error for content that no identity of this process opens; `what` says what is needed of it."""
        recipients = dict.fromkeys(each for epoch in reversed(self.epochs) for each in epoch.recipients)
        why = "no given identity opens it" if self.given else "no identity is given"
        opens_for = described(tuple(recipients), whole=len(recipients) < _MANY)
        return NoFittingIdentity(
            f"{what}, and {why}. The repository opens for: {opens_for}",
            "Give --identity FILE, or set PITR_IDENTITY_FILE."
            + (" '--identity passphrase' asks for the passphrase." if self.has_passphrase else ""),
        )


def described(recipients: Sequence[Recipient], *, whole: bool = False) -> str:
    """Return recipients for people, `whole` or shortened, with their fingerprints."""
    return ", ".join(
        f"{each if whole else f'{str(each)[:16]}…'} (fingerprint {each.fingerprint})" for each in recipients
    )
