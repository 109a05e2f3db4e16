# SPDX-License-Identifier: GPL-2.0-or-later
"""The store: it keeps the objects of a repository, bytes under names."""

from pitr.repository.store.base import (
    Batch,
    KeepsCopies,
    ListedObject,
    NewObject,
    ObjectExists,
    ObjectMissing,
    ReadsHeads,
    ReadsInto,
    Store,
    StoredFile,
    check_name,
    is_name,
    may_be_stored,
)
from pitr.repository.store.folders import LinkInside
from pitr.repository.store.object_errors import ColdObject, ObjectStoreError, StillProtected
from pitr.repository.store.posix import PosixStore

__all__ = [
    "ColdObject",
    "Batch",
    "KeepsCopies",
    "LinkInside",
    "ListedObject",
    "NewObject",
    "ObjectExists",
    "ObjectMissing",
    "ObjectStoreError",
    "PosixStore",
    "StillProtected",
    "ReadsHeads",
    "ReadsInto",
    "Store",
    "StoredFile",
    "check_name",
    "is_name",
    "may_be_stored",
]
