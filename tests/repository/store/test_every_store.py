# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that every store must pass. To test another store, add a line to `_STORES`."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pitr.errors import RepositoryError
from pitr.repository.store import ObjectExists, ObjectMissing, PosixStore, Store
from tests.support import no_links
from tests.support.s3 import memory_store, s3_store

_STORES: dict[str, Callable[[Path], Store]] = {
    "posix": PosixStore,
    "posix with renameat2 only": PosixStore,
    "posix with plain renames only": PosixStore,
    "posix on exFAT": PosixStore,
    "memory": memory_store,
    "s3": s3_store,
}

_HOSTILE_NAMES = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../outside",
    "a/../../outside",
    "a//b",
    "a/",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "a b",
    "a\nb",
    "a\n",
    "a\0b",
    "ä",
    "a\\b",
    "a*",
    "~root",
    "a" * 2000,
]


@pytest.fixture(scope="module")
def exfat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with no_links.exfat(tmp_path_factory.mktemp("exfat")) as folder:
        yield folder


@pytest.fixture(params=sorted(_STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    folder = tmp_path / "store"
    if request.param.endswith("only"):
        no_links.refuse_links(monkeypatch, renameat2="renameat2" in request.param)
    elif request.param == "posix on exFAT":
        folder = request.getfixturevalue("exfat") / f"store-{uuid.uuid4()}"
    folder.mkdir()
    store = _STORES[request.param](folder)
    yield store
    store.close()


def _names(store: Store, prefix: str) -> list[str]:
    return sorted(store.list(prefix))


def test_a_small_object_is_read_back(store: Store) -> None:
    store.create("backups/vm/one.json", b"content")
    assert store.read("backups/vm/one.json", limit=7) == b"content"
    assert store.size("backups/vm/one.json") == 7


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.create("empty", b"")
    assert store.read("empty", limit=0) == b""
    assert store.size("empty") == 0


def test_an_object_is_written_in_pieces_and_exists_from_the_commit_on(store: Store) -> None:
    with store.new("streams/d/s") as new:
        new.write(b"one ")
        new.write(memoryview(b"two"))
        assert _names(store, "streams") == []
        with pytest.raises(ObjectMissing):
            store.size("streams/d/s")
        new.commit()
        assert store.read("streams/d/s", limit=100) == b"one two"
    assert _names(store, "streams") == ["streams/d/s"]


def test_an_object_without_a_commit_does_not_exist(store: Store) -> None:
    with store.new("streams/d/s") as new:
        new.write(b"data")
    with pytest.raises(KeyboardInterrupt), store.new("streams/d/t") as new:
        new.write(b"data")
        raise KeyboardInterrupt
    assert _names(store, "streams") == []


def test_a_name_is_taken_once(store: Store) -> None:
    store.create("backups/one", b"first")
    with pytest.raises(ObjectExists) as raised:
        store.create("backups/one", b"second")
    assert raised.value.name == "backups/one"
    with store.new("backups/one") as new, pytest.raises(ObjectExists):
        new.commit()
    assert store.read("backups/one", limit=100) == b"first"


def test_one_of_many_concurrent_creates_of_one_name_wins(store: Store) -> None:
    won: list[int] = []
    lost: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        try:
            store.create("backups/vm/one", b"%d" % number)
            won.append(number)
        except ObjectExists:
            lost.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert store.read("backups/vm/one", limit=10) == b"%d" % won[0]


def test_ranges_are_read_by_several_threads_at_once(store: Store) -> None:
    content = os.urandom(100_000)
    store.create("object", content)
    wrong: list[int] = []
    with store.open("object") as file:
        assert file.size == len(content)

        def read(step: int) -> None:
            for offset in range(0, len(content), 997 * step):
                if file.read_at(offset, 5000) != content[offset : offset + 5000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(step,)) for step in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert file.read_at(len(content), 10) == b""
        assert file.read_at(len(content) + 5, 10) == b""
        assert file.read_at(0, 0) == b""


def test_an_open_object_stays_readable_after_its_deletion(store: Store) -> None:
    if not isinstance(store, PosixStore):
        pytest.skip("object stores have no open files; a removal waits for the grace time instead")
    store.create("object", b"content")
    with store.open("object") as file:
        store.delete("object")
        assert file.read_at(0, 100) == b"content"


def test_a_read_has_a_limit(store: Store) -> None:
    store.create("object", b"content")
    with pytest.raises(RepositoryError, match="7 bytes"):
        store.read("object", limit=6)


def test_a_missing_object_is_reported_as_missing(store: Store) -> None:
    store.create("object", b"")
    for name in ("nothing", "a/b/c", "object/below"):
        for ask in (store.size, store.open, store.local_file, lambda name: store.read(name, limit=1)):
            with pytest.raises(ObjectMissing) as raised:
                ask(name)
            assert raised.value.name == name


def test_the_list_has_exactly_the_names_below_a_folder(store: Store) -> None:
    for name in ("backups/a/1", "backups/a/2", "backups/b/1", "backups-old/x", "streams/d/s", "top"):
        store.create(name, b"")
    assert _names(store, "backups") == ["backups/a/1", "backups/a/2", "backups/b/1"]
    assert _names(store, "backups/a") == ["backups/a/1", "backups/a/2"]
    assert _names(store, "nothing") == []


def test_counts_are_those_of_the_folders(store: Store) -> None:
    assert store.counts("backups") == {}
    for name in (
        "backups/vm1/one.json",
        "backups/vm1/two.json",
        "backups/vm2/one.json",
        "drills/vm3/b/one.json",
    ):
        store.create(name, b"")
    assert store.counts("backups") == {"vm1": 2, "vm2": 1}
    store.delete("backups/vm1/one.json")
    assert store.counts("backups")["vm1"] == 1


def test_folders_lists_the_direct_subfolders(store: Store) -> None:
    for name in ("backups/a/1", "backups/b/c/1", "backups/top", "other/x"):
        store.create(name, b"")
    assert sorted(store.folders("backups")) == ["a", "b"]
    assert list(store.folders("nothing")) == []


def test_a_deleted_object_is_gone_and_its_name_is_free(store: Store) -> None:
    store.create("backups/one", b"first")
    store.delete("backups/one")
    store.delete("backups/one")
    store.delete("never/was")
    assert _names(store, "backups") == []
    store.create("backups/one", b"second")
    assert store.read("backups/one", limit=10) == b"second"


@pytest.mark.parametrize("name", _HOSTILE_NAMES)
def test_untrusted_names_are_refused(store: Store, tmp_path: Path, name: str) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    for ask in (
        store.size,
        store.open,
        store.local_file,
        store.delete,
        store.new,
        lambda name: store.read(name, limit=1),
        lambda name: store.create(name, b""),
        lambda name: list(store.list(name)),
        lambda name: list(store.folders(name)),
    ):
        with pytest.raises(RepositoryError, match="invalid name"):
            ask(name)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_local_file_has_the_bytes_of_the_object(store: Store) -> None:
    store.create("streams/d/s.index.db", b"content")
    assert store.local_file("streams/d/s.index.db").read_bytes() == b"content"


def test_scratch_files_are_gone_when_the_store_is_closed(store: Store) -> None:
    paths = [store.scratch_file() for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        assert not path.exists()
        path.write_bytes(b"temporary")
    store.close()
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("size", [10, 20 << 20])
def test_a_replacement_takes_the_place_of_an_object_at_its_commit(store: Store, size: int) -> None:
    store.create("blobs/one", b"damaged")
    new = os.urandom(size)
    with store.replacing("blobs/one") as object_:
        object_.write(new)
        assert store.read("blobs/one", limit=100) == b"damaged"
    assert store.read("blobs/one", limit=100) == b"damaged"
    for name in ("blobs/one", "blobs/two"):
        with store.replacing(name) as object_:
            object_.write(new)
            object_.commit()
        assert store.read(name, limit=size) == new
    assert sorted(store.list("blobs")) == ["blobs/one", "blobs/two"]


def test_a_batch_gets_its_names_when_it_settles_and_keeps_what_is_there(store: Store) -> None:
    store.create("a/old", b"old")
    with store.batch() as batch:
        batch.create("b/small", b"small")
        with batch.new("b/large") as new:
            new.write(b"x" * (9 << 20))
            new.commit()
        with batch.new("b/dropped") as new:
            new.write(b"x")
        with suppress(ObjectExists):
            batch.create("a/old", b"new")
        batch.settle()
        assert store.read("b/small", limit=10) == b"small"
    assert store.size("b/large") == 9 << 20
    assert store.read("a/old", limit=10) == b"old"
    assert sorted(store.list("b")) == ["b/large", "b/small"]


def test_a_batch_in_a_folder_that_does_not_settle_leaves_nothing(tmp_path: Path) -> None:
    store = PosixStore(tmp_path)
    with store.batch() as batch:
        batch.create("b/small", b"small")
    assert list(store.list("b")) == []
    store.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
