# SPDX-License-Identifier: GPL-2.0-or-later
"""The trial of a store: good stores pass it and are empty after it, each bad habit is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import obstore.store
import pytest

from pitr.repository.store import ObjectExists, PosixStore, Store
from pitr.repository.store.object_store import ObjectStore
from pitr.repository.store.probe import FOLDER, UnsafeStore, check
from tests.support.s3 import memory_store, s3_store


@pytest.mark.parametrize("make", [PosixStore, memory_store, s3_store])
def test_a_good_store_passes_and_is_empty_after_it(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path)
    speed = check(store)
    assert min(asdict(speed).values()) > 0
    assert list(store.list(FOLDER)) == []
    store.close()


class _Overwriting(ObjectStore):
    """As s3rver and nanio: If-None-Match is ignored."""

    def create(self, name: str, data: bytes) -> None:
        self.delete(name)
        super().create(name, data)


class _AfterTheEffect(ObjectStore):
    """Reports that the name is taken, and overwrites nevertheless."""

    def create(self, name: str, data: bytes) -> None:
        try:
            super().create(name, data)
        except ObjectExists:
            self.delete(name)
            super().create(name, data)
            raise


class _StaleLists(ObjectStore):
    """Lists do not show what was written in the last second."""

    def list(self, prefix: str, **options: object) -> Iterator[str]:
        return iter(())


class _NoRanges(ObjectStore):
    """Sends an object from its beginning, whatever range is asked for."""

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return super().read_range(name, 0, length)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (_Overwriting, "silently"),
        (_AfterTheEffect, "overwrites"),
        (_StaleLists, "lists"),
        (_NoRanges, "ranges"),
    ],
)
def test_each_bad_habit_is_named(kind: type[ObjectStore], words: str, tmp_path: Path) -> None:
    objects = obstore.store.MemoryStore()
    store = kind(objects, objects, tmp_path)
    with pytest.raises(UnsafeStore) as raised:
        check(store)
    assert words in raised.value.message and raised.value.exit_code == 6
    assert list(ObjectStore(objects, objects, tmp_path).list(FOLDER)) == []
    store.close()
