# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes a repository sealed: its keys, and the store that seals and opens. Imported without `cryptography`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pitr.errors import ProgramMissing, RepositoryError, UsageError
from pitr.model import Stream, known_name
from pitr.repository import location as locations
from pitr.repository import names
from pitr.repository.marker import Marker
from pitr.repository.sealing import identities
from pitr.repository.store import Store, StoredFile

if TYPE_CHECKING:
    from pitr.repository.repository import Repository
    from pitr.repository.sealing.keyring import Keyring


@contextmanager
def needing_cryptography() -> Iterator[None]:
    """Raise ProgramMissing if the library is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise ProgramMissing(
            "sealed repositories need the library cryptography", "Install it: pip install 'pitr[encryption]'."
        ) from None


def pin(repository_id: str, recipients: Sequence[str]) -> None:
    """Pin the recipients of a new repository on this host; none for one that is not sealed. Raises PitrError."""
    if not recipients:
        return
    with needing_cryptography():
        from pitr.repository.sealing import keyring  # noqa: PLC0415 - the extra may be missing
        from pitr.repository.sealing.keys import Recipient  # noqa: PLC0415
    parsed = [Recipient.parse(text) for text in dict.fromkeys(recipients)]
    keyring.pin(locations.private_state(repository_id), parsed)


def keyring_of(marker: Marker, store: Store) -> Keyring | None:
    """Return the keys of a repository, with the identities of this process; None if it is not sealed.

    Raises RepositoryError also for a repository that is not sealed, although this host knows that it was.
    """
    settings = identities.settings()
    if not marker.sealed:
        folder = locations.state_folder(marker.id)
        if settings.recipients or (folder is not None and (folder / "recipients.json").exists()):
            raise RepositoryError(
                "the repository is not sealed, although this host expects it to be: somebody may have replaced its "
                "repository.json",
                "Name another repository, or remove the recipients from [encryption].",
            )
        return None
    with needing_cryptography():
        from pitr.repository.sealing import keyring, passphrases, plugins  # noqa: PLC0415 - the extra may be missing
    listed = list(store.list(names.KEYS))
    stored = passphrases.stored_in(listed)
    opened = passphrases.opened(store, stored, settings) if settings.wants_stored else []
    opened += plugins.opened(store, plugins.stored_in(listed), settings)
    return keyring.Keyring(
        keyring.epochs_of(store, listed),
        settings,
        locations.private_state(marker.id),
        opened,
        has_passphrase=bool(stored),
    )


def copy_as_stored(repository: Repository) -> None:
    """Let the store give and take sealed objects as they are, for a copy to a repository with the same keys."""
    from pitr.repository.sealing.sealed_store import SealedStore  # noqa: PLC0415 - the extra may be missing

    if repository.keyring is not None and isinstance(repository.store, SealedStore):
        repository.keyring.forget_identities()
        repository.store.as_stored = True
        repository.forget_catalog()


def seal_copies(repository: Repository) -> None:
    """Let the store compare its objects with plain ones, for copies that it seals."""
    from pitr.repository.sealing.sealed_store import SealedStore  # noqa: PLC0415 - the extra may be missing

    if isinstance(repository.store, SealedStore):
        repository.store.plain_sizes = True


def seals_copies(store: Store) -> bool:
    """Return whether a replication into this store seals what it copies."""
    return bool(getattr(store, "plain_sizes", False))


def hides_names(store: Store) -> bool:
    """Return whether small objects in this store have ids in the place of names that this process cannot read."""
    return bool(getattr(store, "hides_names", False))


def check_opens(keys: Keyring | None) -> None:
    """Raise NoFittingIdentity if the repository is sealed and these keys do not open it."""
    if keys is not None:
        keys.check_opens()


def open_as_recorded(store: Store, keys: Keyring | None, stream: Stream, name: str) -> StoredFile:
    """Open an object of a stream in the form that its record describes: opened, or sealed if nothing opens the record.

    Raises RepositoryError, and NoFittingIdentity if the record is opened and the object is sealed to others.
    """
    if keys is None:
        return store.open(name)
    from pitr.repository.sealing.sealed_store import SealedStore  # noqa: PLC0415 - the extra may be missing

    if known_name(stream.name) is None and isinstance(store, SealedStore):
        return store.open_stored(name)
    file = store.open(name)
    if getattr(file, "is_sealed", False):
        file.close()
        raise keys.refusal()
    return file


def refuse_external(keys: Keyring | None) -> None:
    """Raise UsageError in a sealed repository: a stream that is stored externally would not be sealed."""
    if keys is not None:
        raise UsageError(
            "a sealed repository stores no streams externally: pitr would not seal them",
            "Let the repository hold the streams.",
        )


def above(store: Store, keys: Keyring | None) -> Store:
    """Return the store that seals and opens with these keys, or the store itself without keys."""
    if keys is None:
        return store
    from pitr.repository.sealing.sealed_store import SealedStore  # noqa: PLC0415 - the extra may be missing

    return SealedStore(store, keys)
