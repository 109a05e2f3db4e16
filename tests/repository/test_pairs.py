# SPDX-License-Identifier: GPL-2.0-or-later
"""States that begin and end: pairs of objects in any order, halves of pairs, and names that are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pitr.errors import RepositoryError
from pitr.repository import notes, pairs, pending
from pitr.repository.pairs import CHECKPOINTS, DISTRUSTED, PENDING, UPLOADS, Pair
from pitr.repository.store import PosixStore, Store
from tests.support.s3 import memory_store


@pytest.fixture(params=["posix", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = PosixStore(tmp_path) if request.param == "posix" else memory_store(tmp_path)
    with closing(opened) as store:
        yield store


def key(pair: Pair, name: str = "a") -> tuple[str, ...]:
    return (*("vm", "disk", "x", "y", "z")[: pair.parts - 1], name)


def objects(store: Store) -> list[str]:
    return sorted(store.list("control"))


@pytest.mark.parametrize("pair", pairs.ALL, ids=lambda pair: pair.begun)
def test_a_state_is_open_until_it_ends_and_both_objects_are_collected(store: Store, pair: Pair) -> None:
    pair.begin(store, *key(pair))
    pair.begin(store, *key(pair))
    pair.begin(store, *key(pair, "b"))
    assert set(pair.open(store)) == {key(pair), key(pair, "b")}
    pair.end(store, *key(pair))
    pair.end(store, *key(pair))
    assert list(pair.open(store)) == [key(pair, "b")]
    pair.collect(store)
    # Nothing of the state that has ended is left, and nothing of the open one is lost.
    assert objects(store) == ["/".join(("control", pair.begun, *key(pair, "b")))]
    assert list(pair.open(store)) == [key(pair, "b")]


@pytest.mark.parametrize("pair", pairs.ALL, ids=lambda pair: pair.begun)
def test_an_end_before_its_begin_ends_it(store: Store, pair: Pair) -> None:
    """The stores of two hosts can show the objects in the other order."""
    pair.end(store, *key(pair))
    pair.begin(store, *key(pair))
    assert list(pair.open(store)) == []
    pair.collect(store)
    assert objects(store) == []


def test_a_collection_that_was_interrupted_leaves_no_state_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        PENDING.begin(store, "vm", name)
    PENDING.end(store, "vm", "a")
    deleted: list[str] = []

    def delete_once(name: str) -> None:
        if deleted:
            raise RepositoryError("the connection is gone")
        deleted.append(name)
        delete(name)

    delete = store.delete
    monkeypatch.setattr(store, "delete", delete_once)
    with pytest.raises(RepositoryError):
        PENDING.collect(store)
    monkeypatch.undo()
    # The first object is gone, the second one is left: the state is not open, and the next collection ends it.
    assert deleted == ["control/pending/vm/a"]
    assert list(PENDING.open(store)) == [("vm", "b")]
    PENDING.collect(store)
    assert objects(store) == ["control/pending/vm/b"]


def test_half_a_pair_that_is_lost_is_no_other_state(store: Store) -> None:
    CHECKPOINTS.begin(store, "vm", "a")
    CHECKPOINTS.end(store, "vm", "a")
    store.delete("control/checkpoints/vm/a")
    assert list(CHECKPOINTS.open(store)) == []
    # Without the second object, pitr takes the checkpoint for one that is still there, and looks on the engine.
    CHECKPOINTS.begin(store, "vm", "b")
    CHECKPOINTS.end(store, "vm", "b")
    store.delete("control/forgotten/vm/b")
    assert list(notes.checkpoints(store, "vm")) == ["b"]


def test_other_objects_and_files_between_them_are_ignored(store: Store, tmp_path: Path) -> None:
    PENDING.begin(store, "vm", "a")
    for name in (
        "control/pending/vm",
        "control/pending/vm2",
        "control/pending/vm3/a/b",
        "control/ended/vm/a/b",
        "control/ended/a",
        "control/other/vm/a",
        "control/uploads/vm/a",
    ):
        try:
            store.create(name, b"junk")
        except RepositoryError:
            # A file system has no file and folder of the same name.
            assert isinstance(store, PosixStore) and name == "control/pending/vm"
    if isinstance(store, PosixStore):
        for name in ("control/pending/.hidden", "control/pending/vm/.a.swp", "control/pending/vm/a b"):
            (tmp_path / name).write_bytes(b"")
    before = objects(store)
    assert list(PENDING.open(store)) == [("vm", "a")] and pending.vms(store) == ["vm"]
    assert list(UPLOADS.open(store)) == []
    for pair in pairs.ALL:
        pair.collect(store)
    assert objects(store) == before


def test_a_disk_can_be_distrusted_again(store: Store) -> None:
    for _ in range(2):
        notes.distrust(store, "vm", "disk")
        notes.distrust(store, "vm", "disk")
        assert notes.distrusted(store, "vm") == {"disk"} and notes.distrusted(store, "vm2") == set()
        assert len(list(DISTRUSTED.open(store))) == 1
        notes.trust_again(store, "vm", "disk")
        assert notes.distrusted(store, "vm") == set()
    DISTRUSTED.collect(store)
    assert objects(store) == []


def test_ids_that_begin_alike_are_different_vms(store: Store) -> None:
    pending.add(store, "vm1", "a")
    pending.add(store, "vm10", "b")
    assert list(pending.of_vm(store, "vm1")) == ["a"] and list(pending.of_vm(store, "vm")) == []
    pending.end(store, "vm1", "a")
    assert pending.vms(store) == ["vm10"]
