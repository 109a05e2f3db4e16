# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in a bucket with versions and object lock. It protects what points need, and reads through what came later.

Who has the keys of a writer can overwrite or delete an object, but that only adds a version or a delete marker. The
oldest version is the true one. The store sets the protection after each upload and reads it back: servers drop it from
uploads in parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.store import ObjectStore as Objects

from pitr import times
from pitr.errors import RepositoryError
from pitr.repository.store.base import ListedObject, ObjectExists, ObjectMissing, check_name, is_name
from pitr.repository.store.known_protection import KnownProtection
from pitr.repository.store.lock_rules import Lock, is_protected
from pitr.repository.store.object_errors import AccessRefused
from pitr.repository.store.object_store import ObjectStore, reading
from pitr.repository.store.versions import Protection, Version, VersionedBucket

#: The trial of a store relies on the oldest version, too.
_TRIAL: Final = "probe"
_MOST_KNOWN: Final = 200_000


class LockedStore(ObjectStore):
    """A store whose objects `lock` protects. The caller closes it."""

    def __init__(
        self, objects: Objects, once: Objects, state: Path, *, bucket: VersionedBucket, lock: Lock
    ) -> None:
        super().__init__(objects, once, state)
        self.bucket = bucket
        self.lock = lock
        self._known: dict[str, Version] = {}
        #: What this host knows without a request.
        self.known_protection = KnownProtection(state / "protection.db")

    def true_version(self, name: str) -> Version:
        """Return the oldest version of a protected object. Raises ObjectMissing."""
        found = self._known.get(check_name(name)) or self.bucket.of(name).oldest
        if found is None:
            raise ObjectMissing(name)
        self._remember(found)
        return found

    def protect(self, name: str, until: datetime) -> None:
        """Protect an object at least until then. Raises ObjectMissing, CannotProtect."""
        self.bucket.protect(name, self.true_version(name).id, Protection(self.lock.mode, until))
        self.known_protection.note(name, until)

    def protection(self, name: str) -> datetime | None:
        """Return until when an object is protected; None if it is not. Raises ObjectMissing."""
        found = self.bucket.protection(name, self.true_version(name).id)
        if found is None:
            self.known_protection.forget(name)
            return None
        self.known_protection.note(name, found.until)
        return found.until

    def create(self, name: str, data: bytes) -> None:
        if not _oldest_is_true(check_name(name)):
            # Some servers ignore the condition in a bucket with versions.
            if self._is_taken(name):
                raise ObjectExists(name)
            super().create(name, data)
            return
        self.put_once(name, data)
        oldest = self.true_version(name)
        if oldest.size != len(data) or not self._is(oldest, data):
            # Another writer was first, and the server added ours as a newer version.
            raise ObjectExists(name)
        self.stored(name)

    def replacing(self, name: str) -> Any:
        if _oldest_is_true(check_name(name)) and self._is_taken(name):
            raise RepositoryError(
                f"cannot repair {name}: the object lock keeps the damaged one as the true one",
                "Copy the points to a new repository with 'pitr replicate'.",
            )
        return super().replacing(name)

    def stored(self, name: str) -> None:
        if is_protected(name):
            self.protect(name, times.now() + self.lock.period)

    def read(self, name: str, *, limit: int) -> bytes:
        if not _oldest_is_true(check_name(name)):
            return super().read(name, limit=limit)
        size = self.true_version(name).size
        if size > limit:
            raise RepositoryError(f"{name} has {size} bytes; pitr accepts at most {limit} bytes")
        return self.read_range(name, 0, size) if size else b""

    def open_with_head(self, name: str, length: int) -> Any:
        # The oldest version is the true one.
        return self.open(name) if _oldest_is_true(check_name(name)) else super().open_with_head(name, length)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if not _oldest_is_true(name):
            return super().read_range(name, offset, length)
        version = self.true_version(name).id

        async def get() -> bytes:
            options: Any = {"version": version, "range": (offset, offset + length)}
            answer = await obstore.get_async(self._objects, name, options=options)
            return bytes(await answer.bytes_async())

        with reading(name):
            return self._run(get)

    def _meta(self, name: str) -> Any:
        if not _oldest_is_true(check_name(name)):
            return super()._meta(name)
        found = self.true_version(name)
        return {"size": found.size, "last_modified": found.written}

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        if not _oldest_is_true(check_name(prefix)):
            yield from super().listed(prefix)
            return
        for each in self.bucket.listed(f"{prefix}/"):
            oldest = each.oldest
            if oldest is not None and is_name(each.name):
                self._remember(oldest)
                yield ListedObject(each.name, oldest.size, oldest.written)

    def folders(self, prefix: str) -> Iterator[str]:
        if not _oldest_is_true(check_name(prefix)):
            yield from super().folders(prefix)
            return
        yield from {
            each.name.removeprefix(f"{prefix}/").partition("/")[0]
            for each in self.listed(prefix)
            if "/" in each.name.removeprefix(f"{prefix}/")
        }

    def delete(self, name: str) -> None:
        """Delete all versions of an object. Raises StillProtected, and then nothing was deleted, and AccessRefused."""
        found = self.bucket.of(check_name(name))
        self._known.pop(name, None)
        try:
            # The oldest first: if it is protected, the others stay as they are.
            for version in reversed(found.versions):
                self.bucket.delete(name, version.id)
            for marker, _ in found.markers:
                self.bucket.delete(name, marker)
            if is_protected(name):
                self.known_protection.forget(name)
        except AccessRefused:
            if _oldest_is_true(name):
                raise
            # A writer may not delete versions, but it may hide a note.
            super().delete(name)

    def local_file(self, name: str) -> Path:
        if not _oldest_is_true(check_name(name)):
            return super().local_file(name)
        version = self.true_version(name)
        if self._copies.tag_of(name) == version.id:
            return self._copies.path(name)
        return self._copies.keep(name, version.id, self.read(name, limit=version.size))

    def _is(self, version: Version, data: bytes) -> bool:
        # Encrypted by the server, an object has a tag of its own.
        tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return version.tag.strip('"') == tag or self.read(version.name, limit=len(data)) == data

    def _is_taken(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def _remember(self, version: Version) -> None:
        if not is_protected(version.name):
            # The trial measures requests.
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[version.name] = version

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        for each in self.listed(prefix):
            if each.name not in besides:
                yield each.name


def _oldest_is_true(name: str) -> bool:
    return is_protected(name) or name.partition("/")[0] == _TRIAL
