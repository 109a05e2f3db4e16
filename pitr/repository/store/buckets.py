# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository's marker needs of a bucket: its oldest version, and trials before the first object."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pitr.repository.store import lock_probe, probe
from pitr.repository.store.base import ObjectMissing, Store
from pitr.repository.store.locked_store import LockedStore
from pitr.repository.store.object_store import ObjectStore
from pitr.repository.store.versions import VersionedBucket

if TYPE_CHECKING:
    from pitr.repository.store.s3 import S3Location


def try_out(store: Store) -> probe.Speed:
    """Try out a store that a repository is or will be in, with its lock, and measure it. Raises UnsafeStore."""
    if isinstance(store, LockedStore):
        lock_probe.check_bucket(store.bucket)
    speed = probe.check(store)
    if isinstance(store, LockedStore):
        lock_probe.check_lock(store)
    return speed


def read_oldest(place: S3Location, store: Store, name: str, *, limit: int) -> bytes:
    """Read the oldest version of an object, which no writer can replace or hide. Raises ObjectMissing.

    `store` is a store without a lock at `place`. Without boto3, or without versions, there is only the newest one.
    """
    if not isinstance(store, ObjectStore):
        return store.read(name, limit=limit)
    try:
        stored, version = store.read_with_version(name, limit=limit)
    except ObjectMissing:
        stored, version = None, "hidden"
    if version is not None and find_spec("boto3") is not None:
        oldest = VersionedBucket(place).of(name).oldest
        if oldest is not None and oldest.id != version:
            stored, _ = store.read_with_version(name, oldest.id, limit=limit)
    if stored is None:
        raise ObjectMissing(name)
    return stored
