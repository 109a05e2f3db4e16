# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy one object from a store to another one, and compare its digest on the way: one read, one write.

The new object gets its name only after the comparison, so that neither half an object nor a damaged one ever looks
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from blake3 import blake3

from pitr.errors import NoFittingIdentity, RepositoryError
from pitr.jobs.replicate.pieces import Piece
from pitr.jobs.replicate.team import CHUNK, Team
from pitr.repository import sealed
from pitr.repository.damage import DamageKind, StoredDamage
from pitr.repository.store import Batch, NewObject, ObjectMissing, Store, StoredFile
from pitr.repository.store.object_errors import ObjectStoreError
from pitr.system import rate_limit

Advance = Callable[[int], None]
"""Called with the number of bytes that were copied."""


def copy_object(
    source: Store, target: Place, piece: Piece, team: Team, advance: Advance
) -> list[StoredDamage]:
    """Copy an object; take one of its twins if it is damaged. Return the damage that was found on the way.

    Raises StoredDamage if no good object is in the source;
    RepositoryError for failures of the stores.
    """
    found: list[StoredDamage] = []
    for name in (piece.name, *piece.twins):
        try:
            _copy(source, name, target, piece, team, advance)
        except StoredDamage as error:
            found.append(error)
        else:
            return found
    raise found[0]


def check_object(store: Store, name: str, piece: Piece, team: Team, advance: Advance) -> None:
    """Read an object and compare it with its record. Raises StoredDamage, and RepositoryError if the store fails."""
    with _reading(piece), store.open(name) as file:
        _compare_sizes(file.size, piece)
        digest = blake3()
        with closing(team.chunks(file)) as chunks:
            for chunk in chunks:
                rate_limit.spend(len(chunk))
                digest.update(chunk)
                advance(len(chunk))
        _compare(digest.hexdigest(), piece)


@dataclass(frozen=True, slots=True)
class Replacing:
    """A place where a new object takes that of the old one."""

    store: Store

    def new(self, name: str) -> NewObject:
        """Begin an object."""
        return self.store.replacing(name)

    def create(self, name: str, data: bytes) -> None:
        """Write a small object."""
        with self.new(name) as new:
            new.write(data)
            new.commit()


Place = Store | Batch | Replacing


def _copy(source: Store, name: str, target: Place, piece: Piece, team: Team, advance: Advance) -> None:
    if piece.expected.size <= CHUNK:
        data = _small(source, name, piece)
        _compare_sizes(len(data), piece)
        _compare(blake3(data).hexdigest(), piece)
        rate_limit.spend(len(data))
        target.create(piece.name, data)
        advance(len(data))
        return
    with _opened(source, name, piece) as file:
        _compare_sizes(file.size, piece)
        digest = blake3()
        with (
            target.new(piece.name) as new,
            closing(team.chunks(file)) as chunks,
        ):
            while True:
                with _reading(piece):
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                rate_limit.spend(len(chunk))
                digest.update(chunk)
                new.write(chunk)
                advance(len(chunk))
            _compare(digest.hexdigest(), piece)
            new.commit()


def _small(source: Store, name: str, piece: Piece) -> bytes:
    # Enough room for an object that has grown a little.
    limit = 2 * CHUNK
    if not sealed.hides_names(source):
        with _reading(piece):
            # One request.
            return source.read(name, limit=limit)
    with _opened(source, name, piece) as file, _reading(piece):
        return file.read_at(0, limit)


@contextmanager
def _opened(store: Store, name: str, piece: Piece) -> Iterator[StoredFile]:
    """Open an object. Raises StoredDamage, and NoFittingIdentity if its record is opened and it is sealed to others."""
    with _reading(piece):
        file = store.open(name)
    with file:
        if getattr(file, "is_sealed", False):
            raise NoFittingIdentity(f"no given identity opens {name}")
        yield file


@contextmanager
def _reading(piece: Piece) -> Iterator[None]:
    """Turn what a read says about one object into damage; failures of a whole object store stay what they are."""
    try:
        yield
    except ObjectMissing:
        raise piece.damage("missing", "it is missing") from None
    except ObjectStoreError:
        raise
    except RepositoryError as error:
        raise piece.damage("corrupt", error.message) from error


def _compare_sizes(found: int, piece: Piece) -> None:
    size = piece.expected.size
    if found != size:
        kind: DamageKind = "truncated" if found < size else "inconsistent"
        raise piece.damage(kind, f"it has {found} bytes instead of {size}")


def _compare(digest: str, piece: Piece) -> None:
    if digest != piece.expected.digest:
        raise piece.damage("corrupt", "the digest of its bytes does not match")


def has_size(store: Store, piece: Piece) -> bool | None:
    """Return whether the store's object has its size; None if there is none."""
    try:
        return store.size(piece.name) == piece.expected.size
    except ObjectMissing:
        return None
