# SPDX-License-Identifier: GPL-2.0-or-later
"""Try out whether a bucket protects objects as a repository with a lock relies on. The trial takes some seconds."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Final

from pitr.errors import UsageError
from pitr.repository.store.locked_store import LockedStore
from pitr.repository.store.object_errors import ObjectStoreError, StillProtected
from pitr.repository.store.probe import FOLDER, UnsafeStore
from pitr.repository.store.versions import Protection, VersionedBucket
from pitr.system.cancellation import pause

#: How long the object of the trial is protected, and how long its removal is tried after that.
_PROTECTED: Final = timedelta(seconds=4)
_REMOVAL_S: Final = 15.0
_ADVICE: Final = "Use another server. docs/object-storage.md names those that were tried."


def check_bucket(bucket: VersionedBucket) -> None:
    """Raise UsageError unless the bucket has versions and object lock, and protects nothing by itself."""
    if not bucket.has_versions():
        raise UsageError(
            "the bucket keeps no versions, which object lock needs",
            "Create a bucket with object lock (aws s3api create-bucket --object-lock-enabled-for-bucket).",
        )
    settings = bucket.lock_settings()
    if settings is None:
        raise UsageError(
            "the bucket has no object lock",
            "Create a bucket with object lock (aws s3api create-bucket --object-lock-enabled-for-bucket).",
        )
    if settings.get("Rule"):
        raise UsageError(
            "the bucket protects every object by a default retention, so that pitr could not remove its own notes",
            "Remove the default retention (aws s3api put-object-lock-configuration). pitr protects what points need.",
        )


def check_lock(store: LockedStore) -> None:
    """Raise UnsafeStore if the server does not protect an object that pitr protects."""
    name = f"{FOLDER}/{uuid.uuid4().hex}/locked"
    bucket: VersionedBucket = store.bucket
    store.create(name, b"first")
    try:
        version = store.true_version(name)
        # The store's clock: it refuses a time that has passed.
        try:
            bucket.protect(name, version.id, Protection(store.lock.mode, version.written + _PROTECTED))
        except ObjectStoreError as error:
            raise UnsafeStore(
                f"a repository with a lock cannot lie on this store: {error.message}", _ADVICE
            ) from error
        try:
            bucket.delete(name, version.id)
        except StillProtected:
            return
        raise UnsafeStore(
            "a repository with a lock cannot lie on this store: it deletes a protected object", _ADVICE
        )
    finally:
        _remove(store, name)


def _remove(store: LockedStore, name: str) -> None:
    end = time.monotonic() + _REMOVAL_S
    while True:
        try:
            store.delete(name)
            return
        except ObjectStoreError:
            if time.monotonic() > end:
                # It does no harm: nothing reads the folder.
                return
            pause(0.5)
