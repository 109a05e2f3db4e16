# SPDX-License-Identifier: GPL-2.0-or-later
"""repository.json: the object that makes a folder or a prefix of a bucket a repository, and tells its format."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pitr import times
from pitr.errors import FormatError, RepositoryError, UsageError
from pitr.repository import canonical, names
from pitr.repository import location as locations
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.location import Location
from pitr.repository.store import ObjectExists, ObjectMissing, PosixStore, Store
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.naming import set_mode
from pitr.repository.store.posix import SCRATCH
from pitr.repository.store.s3 import S3Location
from pitr.repository.store.scratch import is_scratch

FORMAT = 2
#: How long objects stay in a bucket after the removal of their point: writers hold no locks there.
_GRACE = timedelta(days=3)
#: The longest grace time that repository.json may have.
MAX_GRACE = timedelta(days=366)
#: Features beyond the format that a repository may require. This version of pitr knows none.
KNOWN_FEATURES: frozenset[str] = frozenset()
_SCHEMA = "repository.schema.json"
#: The only type of encryption.
_AGE = "age"


@dataclass(frozen=True, slots=True)
class Marker:
    """What repository.json says. `grace`: how long the objects of a removed point stay; `lock`: what protects them.

    `origin` is the id of the repository that this one is a copy of; its own id if it is none.
    `sealed`: objects are age files, for the recipients of the key files.
    """

    id: str
    grace: timedelta
    origin: str
    lock: Lock | None = None
    sealed: bool = False


def create(
    location: Location,
    grace: timedelta | None = None,
    *,
    lock: Lock | None = None,
    origin: str | None = None,
    recipients: Sequence[str] = (),
) -> str:
    """Make a repository of an empty or new folder, or of an unused prefix of a bucket. Raises RepositoryError.

    `grace`: how long the objects of a removed point stay; by default not at all in a folder, where locks protect what
    a writer needs, and three days in a bucket. `lock`: how objects in a bucket are protected from removal. `origin`:
    the id of the repository that this one is a copy of. With `recipients` (age1…) the repository is sealed. Returns
    its id.
    """
    if lock is not None and isinstance(location, Path):
        raise UsageError(
            "--lock goes with a repository on S3", "Name a bucket with object lock: s3://BUCKET/PREFIX."
        )
    first_epoch = _first_epoch(recipients)
    if grace is None:
        grace = timedelta() if isinstance(location, Path) else _GRACE
    store = _new_folder(location) if isinstance(location, Path) else _unused_prefix(location, lock)
    try:
        repository_id = str(uuid.uuid4())
        document: dict[str, Any] = {
            "id": repository_id,
            "format": FORMAT,
            "required_features": sorted(KNOWN_FEATURES),
            "created": times.to_text(times.now()),
            "grace": int(grace.total_seconds()),
            "lock": lock.as_document() if lock is not None else None,
            "encryption": {"type": _AGE} if recipients else None,
        }
        if origin is not None:
            document["origin"] = origin
        # The marker comes last: it makes the repository.
        first_epoch(store)
        store.create(names.REPOSITORY, canonical.encode(document))
    except ObjectExists:
        raise _exists(location) from None
    finally:
        store.close()
    return repository_id


def _first_epoch(recipients: Sequence[str]) -> Callable[[Store], object]:
    """Return what stores the recipients of a sealed repository. Raises UsageError, ProgramMissing."""
    if not recipients:
        return lambda store: None
    from pitr.repository import sealed  # noqa: PLC0415 - it imports this module

    with sealed.needing_cryptography():
        from pitr.repository.sealing import keyring  # noqa: PLC0415 - the extra may be missing
        from pitr.repository.sealing.keys import Recipient  # noqa: PLC0415
    parsed = [Recipient.parse(text) for text in dict.fromkeys(recipients)]
    return lambda store: keyring.add_epoch(store, 1, parsed)


def read(location: Location, store: Store) -> Marker:
    """Read what marks the repository. Raises RepositoryError if there is none, or if it needs a newer pitr."""
    where = locations.text(location)
    try:
        stored = _stored(location, store)
    except ObjectMissing:
        raise RepositoryError(
            f"there is no repository in {where}",
            "Create one with 'pitr init', or name another one with --repo.",
        ) from None
    try:
        document = canonical.parse(stored)
        _check_format(document, where)
        canonical.validate(document, _SCHEMA)
    except FormatError as error:
        raise StoredDamage(
            Damage(None, None, None, "corrupt", "record", f"{where}/{names.REPOSITORY}: {error.message}")
        ) from None
    encryption = document["encryption"]
    used = [] if encryption in (None, {"type": _AGE}) else ["encryption"]
    unknown = sorted({*document["required_features"], *used} - KNOWN_FEATURES)
    if unknown:
        raise _too_new(where, f"format {FORMAT} with {', '.join(unknown)}")
    return Marker(
        document["id"],
        timedelta(seconds=document["grace"]),
        document.get("origin", document["id"]),
        Lock.of_document(document["lock"]),
        encryption is not None,
    )


def _stored(location: Location, store: Store) -> bytes:
    if isinstance(location, Path):
        return store.read(names.REPOSITORY, limit=canonical.MAX_SIZE)
    from pitr.repository.store.buckets import read_oldest  # noqa: PLC0415 - a folder needs no library for S3

    return read_oldest(location, store, names.REPOSITORY, limit=canonical.MAX_SIZE)


def keeps_modes(location: Location) -> bool:
    """Return whether the file system has file modes that keep other users out; else the mount options decide."""
    return not isinstance(location, Path) or not (location / names.REPOSITORY).stat().st_mode & 0o077


def _check_format(document: dict[str, Any], where: str) -> None:
    """Raise RepositoryError for another format, whose document may have another schema."""
    found = document.get("format")
    if not isinstance(found, int) or found == FORMAT:
        return
    if found < FORMAT:
        raise RepositoryError(
            f"the repository in {where} has format {found}, which this version no longer reads",
            "Make a new one with 'pitr init'. The version of pitr that wrote the old one still restores from it.",
        )
    raise _too_new(where, f"format {found}")


def _too_new(where: str, what: str) -> RepositoryError:
    return RepositoryError(f"the repository in {where} needs a newer pitr ({what})", "Update pitr.")


def _exists(location: Location) -> RepositoryError:
    return RepositoryError(
        f"{locations.text(location)} is a repository already", "Use it without another 'pitr init'."
    )


def is_unused(folder: Path) -> bool:
    """Return whether a folder is empty, but for what a killed `create` left there. Raises OSError."""
    left = list(folder.iterdir())
    return not left or (
        [entry.name for entry in left] == [SCRATCH] and all(map(is_scratch, left[0].iterdir()))
    )


def _new_folder(path: Path) -> Store:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (path / names.REPOSITORY).exists():
            raise _exists(path)
        if not is_unused(path):
            raise RepositoryError(f"{path} is not empty", "Name an empty or a new folder.")
        set_mode(path, 0o700)
    except OSError as error:
        raise RepositoryError(f"cannot create a repository in {path}: {error.strerror}") from error
    return PosixStore(path)


def _unused_prefix(location: S3Location, lock: Lock | None) -> Store:
    """Return the store of a prefix that holds no repository, after a trial of what a repository relies on."""
    store = locations.opened(location, locations.scratch_state(), lock)
    try:
        from pitr.repository.store.buckets import try_out  # noqa: PLC0415 - a folder needs no library for S3

        with suppress(ObjectMissing):
            store.size(names.REPOSITORY)
            raise _exists(location)
        try_out(store)
    except BaseException:
        store.close()
        raise
    return store
