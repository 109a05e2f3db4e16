# SPDX-License-Identifier: GPL-2.0-or-later
"""The store in a folder of a POSIX file system: modes, links, crashes, full disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pitr.errors import RepositoryError
from pitr.repository.store import LinkInside, ObjectExists, ObjectMissing, PosixStore
from pitr.repository.store.naming import Naming
from tests.support import no_links

_HOLDER = """
import sys
from pathlib import Path
from pitr.repository.store import PosixStore
store = PosixStore(Path(sys.argv[1]))
path = store.scratch_file()
path.write_bytes(b"half")
print(path, flush=True)
sys.stdin.read()
store.close()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PosixStore]:
    (tmp_path / "store").mkdir()
    store = PosixStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit the files of this process to 8 KiB, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_files_are_0600_and_folders_0700_for_any_umask(store: PosixStore, umask: int) -> None:
    before = os.umask(umask)
    try:
        store.create("backups/vm/one", b"data")
    finally:
        os.umask(before)
    assert _mode(store.folder / "backups/vm/one") == 0o600
    assert {_mode(store.folder / name) for name in ("backups", "backups/vm", "tmp")} == {0o700}


def test_symbolic_links_are_not_followed(store: PosixStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store.create("backups/real", b"data")
    (store.folder / "backups/link").symlink_to(tmp_path / "secret")
    (store.folder / "backups/folder").symlink_to(tmp_path)
    for ask in (
        store.open,
        store.size,
        store.local_file,
        lambda name: store.read(name, limit=100),
    ):
        with pytest.raises(RepositoryError):
            ask("backups/link")
    assert "backups/folder/secret" not in list(store.list("backups"))
    store.delete("backups/link")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_new_object_is_not_written_through_a_link(store: PosixStore, tmp_path: Path) -> None:
    store.create("backups/real", b"data")
    (store.folder / "backups/new").symlink_to(tmp_path / "outside")
    with pytest.raises(RepositoryError):
        store.create("backups/new", b"data")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_a_regular_file_is_an_object_and_opening_a_pipe_does_not_wait(
    store: PosixStore, kind: str
) -> None:
    path = store.folder / "odd"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for ask in (store.open, store.size, store.local_file, lambda name: store.read(name, limit=100)):
        with pytest.raises(RepositoryError):
            ask("odd")


def test_files_with_invalid_names_are_not_listed(store: PosixStore) -> None:
    store.create("backups/vm/one", b"")
    for name in (".nfs000000123", ".one.swp", "one (copy)", "lost+found", "caf\udce9"):
        (store.folder / "backups/vm" / name).write_bytes(b"")
    (store.folder / "backups/.snapshot").mkdir()
    (store.folder / "backups/.snapshot/two").write_bytes(b"")
    assert list(store.list("backups")) == ["backups/vm/one"]


def test_a_full_disk_is_an_error_and_leaves_nothing(store: PosixStore, small_files: None) -> None:
    del small_files
    with pytest.raises(RepositoryError, match="cannot write backups/large") as raised:
        store.create("backups/large", bytes(10_000))
    assert "does not allow files of this size" in raised.value.advice
    assert list(store.list("backups")) == []
    assert [path.name for path in (store.folder / "tmp").glob("*/*")] == ["lock"]
    store.create("backups/small", bytes(8000))
    assert store.size("backups/small") == 8000


def test_a_full_disk_has_advice(store: PosixStore) -> None:
    with store.new("object") as new:
        target = os.open("/dev/full", os.O_WRONLY)
        os.dup2(target, new._handle)
        os.close(target)
        with pytest.raises(RepositoryError, match="No space left") as raised:
            new.write(b"data")
    assert "pitr prune" in raised.value.advice


def test_a_folder_with_the_name_of_an_object_is_an_error(store: PosixStore) -> None:
    store.create("backups/vm/one", b"")
    with pytest.raises(RepositoryError):
        store.delete("backups/vm")
    with pytest.raises(RepositoryError):
        store.create("backups/vm/one/below", b"")
    with pytest.raises(ObjectMissing):
        store.open("backups/vm/one/below")


def test_scratch_files_of_dead_processes_are_removed_and_of_live_ones_kept(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLDER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        paths = []
        for holder in holders:
            assert holder.stdout is not None
            paths.append(Path(holder.stdout.readline().strip()))
        dead, living = paths
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        assert dead.exists()
        with closing(PosixStore(folder)) as store:
            own = store.scratch_file()
            own.write_bytes(b"mine")
            with closing(PosixStore(folder)) as other:
                other.scratch_file()
                assert own.exists()
            assert not dead.exists()
            assert not dead.parent.exists()
            assert living.read_bytes() == b"half"
    finally:
        for holder in holders:
            holder.communicate("")
    assert not living.exists()


def test_concurrent_threads_create_one_scratch_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with closing(PosixStore(tmp_path / "store")) as store:
        barrier = threading.Barrier(8)
        folders: set[Path] = set()

        def ask() -> None:
            barrier.wait()
            folders.add(store.scratch_file().parent)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(folders) == 1
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_a_foreign_file_in_the_scratch_folder_is_kept(store: PosixStore) -> None:
    (store.folder / "tmp").mkdir()
    (store.folder / "tmp/readme").write_text("mine")
    (store.folder / "tmp/folder").mkdir()
    store.scratch_file()
    assert (store.folder / "tmp/readme").read_text() == "mine"
    assert (store.folder / "tmp/folder").is_dir()


# Folders that are links


@pytest.fixture
def linked(store: PosixStore, tmp_path: Path) -> Path:
    """A folder outside the store; `backups/vm` in the store is a link to it."""
    store.create("backups/vm/one", b"data")
    elsewhere = tmp_path / "elsewhere"
    (store.folder / "backups/vm").rename(elsewhere)
    (store.folder / "backups/vm").symlink_to(elsewhere)
    return elsewhere


def test_a_linked_folder_is_not_read_written_or_emptied(store: PosixStore, linked: Path) -> None:
    for ask in (
        store.open,
        store.size,
        store.written,
        store.local_file,
        store.delete,
        lambda name: store.read(name, limit=100),
        lambda name: store.create(f"{name}-new", b"data"),
        lambda name: store.create(f"{name}/below/new", b"data"),
        lambda name: list(store.list(name.rpartition("/")[0])),
        lambda name: list(store.folders(name.rpartition("/")[0])),
    ):
        with pytest.raises(LinkInside, match="backups/vm is a symbolic link") as raised:
            ask("backups/vm/one")
        assert raised.value.advice
    assert [(path.name, path.read_bytes()) for path in linked.iterdir()] == [("one", b"data")]


def test_a_linked_parent_folder_is_refused_too(store: PosixStore, linked: Path) -> None:
    elsewhere = linked.with_name("all")
    (store.folder / "backups").rename(elsewhere)
    (store.folder / "backups").symlink_to(elsewhere)
    for ask in (
        store.size,
        store.delete,
        lambda name: store.create(f"{name}2", b""),
        lambda name: list(store.list(name)),
    ):
        with pytest.raises(LinkInside, match="backups is a symbolic link"):
            ask("backups/vm/one")


def test_a_folder_is_not_created_through_a_dangling_link(store: PosixStore, tmp_path: Path) -> None:
    (store.folder / "backups").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LinkInside):
        store.create("backups/vm/one", b"data")
    assert not (tmp_path / "nowhere").exists()


def test_scratch_files_are_not_removed_or_written_through_a_link(store: PosixStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim" / ("0" * 32)
    victim.mkdir(parents=True)
    (victim / "precious").write_bytes(b"precious")
    (store.folder / "tmp").mkdir()
    (store.folder / "tmp" / victim.name).symlink_to(victim)
    store.create("one", b"")
    assert [path.name for path in victim.iterdir()] == ["precious"]
    with closing(PosixStore(tmp_path / "other")) as other:
        other.folder.mkdir()
        (other.folder / "tmp").symlink_to(tmp_path / "victim")
        with pytest.raises(LinkInside):
            other.create("one", b"")
    assert [path.name for path in (tmp_path / "victim").iterdir()] == [victim.name]
    assert [path.name for path in victim.iterdir()] == ["precious"]


def test_the_stores_own_folder_may_be_a_link(store: PosixStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.folder)
    with closing(PosixStore(tmp_path / "link")) as through:
        through.create("backups/vm/one", b"data")
        assert list(through.list("backups")) == ["backups/vm/one"]
    assert store.read("backups/vm/one", limit=4) == b"data"


# Without hard links


@pytest.mark.parametrize("renameat2", [True, False])
def test_a_taken_name_is_not_overwritten_without_hard_links(
    store: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renameat2: bool
) -> None:
    no_links.refuse_links(monkeypatch, renameat2=renameat2)
    store.create("backups/one", b"first")
    (store.folder / "backups/link").symlink_to(tmp_path / "nowhere")
    (store.folder / "backups/folder").mkdir()
    for name in ("one", "link", "folder"):
        with pytest.raises(ObjectExists):
            store.create(f"backups/{name}", b"second")
    assert store.read("backups/one", limit=5) == b"first"
    assert not (tmp_path / "nowhere").exists()
    assert [path.name for path in (store.folder / "tmp").glob("*/*")] == ["lock"]


def test_concurrent_processes_do_not_overwrite_one_name(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    script = """
import errno, os, sys
from pathlib import Path
from pitr.repository.store import naming
from pitr.repository.store import ObjectExists, PosixStore
naming.WAYS = naming.WAYS[-1:]
store = PosixStore(Path(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
for number in range(100):
    try:
        store.create(f"backups/{number}", sys.argv[2].encode())
        print(number, flush=True)
    except ObjectExists:
        pass
store.close()
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, folder, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    won = {name: writer.communicate()[0].split() for name, writer in zip("ab", writers, strict=True)}
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(100))
    for name, numbers in won.items():
        for number in numbers:
            assert (folder / "backups" / number).read_text() == name


def test_a_refused_permission_does_not_mean_that_links_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").write_bytes(b"data")
    folder = os.open(tmp_path, os.O_RDONLY)
    naming = Naming()
    with monkeypatch.context() as refused:
        no_links.refuse_links(refused, renameat2=False)
        with pytest.raises(FileNotFoundError):
            naming.give("nothing", folder, "name", folder)
    naming.give("scratch", folder, "name", folder)
    os.close(folder)
    assert (
        tmp_path / "name"
    ).stat().st_nlink == 2  # by a hard link: the store remembers another way only once it has worked
