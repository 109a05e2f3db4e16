# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories: the record is the commit, untrusted names are refused, and locks end with their process."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from pitr.errors import BusyError, FormatError, PitrError, RepositoryError
from pitr.model import Record, VMName
from pitr.repository import Repository, canonical, configurations, names, record
from pitr.repository.catalog import Catalog
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ObjectExists, PosixStore
from tests.support.layout import stored
from tests.support.points import (
    DISK_ID,
    FIRST_POINT,
    VM,
    Writer,
    backup_of,
    disk_id,
    fake_stream,
    flip_bit,
    new_stream,
    read_point,
    record_path,
    source,
    store_stream,
)

pytestmark = pytest.mark.usefixtures("quick_disk")

_HOLDER = """
import sys
from pathlib import Path
from pitr.model import VMName
from pitr.repository import Repository
with Repository.open(Path(sys.argv[1])) as repository, repository.lock_vm(VMName(sys.argv[2], "web")):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holding(repository: Repository) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, repository.path, VM.id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


# Create and open


def test_a_repository_is_created_and_opened_again(tmp_path: Path) -> None:
    with Repository.create(tmp_path / "a/b/repository") as made:
        pass
    with Repository.open(tmp_path / "a/b/repository") as opened:
        assert opened.id == made.id
        assert opened.catalog.points() == []
    assert (tmp_path / "a/b/repository").stat().st_mode & 0o777 == 0o700


def test_a_repository_is_not_created_over_existing_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/document").write_bytes(b"mine")
    Repository.create(tmp_path / "repository").close()
    for name in ("file", "file/below", "folder", "repository"):
        with pytest.raises(RepositoryError):
            Repository.create(tmp_path / name)
    assert (tmp_path / "folder/document").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["nothing", "file", "folder"])
def test_a_folder_without_a_repository_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RepositoryError, match="no repository") as raised:
        Repository.open(tmp_path / name)
    assert "pitr init" in raised.value.advice


def test_any_flipped_bit_in_repository_json_is_found(repository: Repository) -> None:
    path = repository.path / "repository.json"
    for position in range(path.stat().st_size):
        flip_bit(path, position, position % 8)
        with pytest.raises(StoredDamage):
            Repository.open(repository.path)
        flip_bit(path, position, position % 8)
    Repository.open(repository.path).close()


@pytest.mark.parametrize(
    "changes",
    [
        {"required_features": ["encryption"]},
        {"format": 3},
        {"format": 3, "something": "that this pitr does not know"},
    ],
)
def test_a_repository_that_needs_a_newer_pitr_is_refused(
    repository: Repository, changes: dict[str, Any]
) -> None:
    path = repository.path / "repository.json"
    document = orjson.loads(path.read_bytes())
    del document["digest"]
    path.write_bytes(canonical.encode({**document, **changes}))
    with pytest.raises(RepositoryError, match="needs a newer pitr"):
        Repository.open(repository.path)


# Committing


def test_streams_without_a_record_do_not_exist_for_readers(repository: Repository) -> None:
    writer = Writer(repository)
    writer.add("64k:A")
    uncommitted = writer.add("64k:B", commit=False)
    with Repository.open(repository.path) as again:
        assert [backup.backup_id for backup in again.catalog.points()] == [writer.backups[0].backup_id]
        assert again.catalog.get(uncommitted.backup_id) is None
        with pytest.raises(StoredDamage):
            again.record_of(uncommitted.backup_id)


def test_half_written_objects_are_invisible(repository: Repository) -> None:
    with repository.store.new("backups/vm/half.json") as new:
        new.write(b"{")
        with Repository.open(repository.path) as again:
            assert again.catalog.points() == []
            assert list(again.store.list("backups")) == []


def test_a_committed_backup_is_a_point_for_all_readers_at_once(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A", "128k:B")
    assert repository.catalog.points() == [backup]
    assert repository.record_of(backup.backup_id) == backup
    assert configurations.read(repository.store, backup) == "<ovf:Envelope/>"
    with Repository.open(repository.path) as again:
        assert again.catalog.points() == [backup]
        assert read_point(again, backup, backup.streams[1]) == b"B" * 131072


def test_a_backup_is_committed_once(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A")
    with pytest.raises(ObjectExists):
        repository.commit(Record(backup, None))
    assert configurations.read(repository.store, repository.record_of(backup.backup_id)) == "<ovf:Envelope/>"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda backup: replace(backup, lo=backup.point + timedelta(seconds=1)),
        lambda backup: replace(backup, parent_id="some-backup"),
        lambda backup: replace(backup, backup_id="a/../../b"),
        lambda backup: replace(backup, vm=VMName("../outside", "web")),
        lambda backup: replace(backup, consistency="x" * 100),
        lambda backup: replace(backup, reason="x" * 100_000),
        lambda backup: replace(backup, streams=(fake_stream(0), fake_stream(0))),
    ],
)
def test_a_record_that_no_reader_would_accept_is_not_written(
    repository: Repository, tmp_path: Path, wrong: Callable[[Any], Any]
) -> None:
    with pytest.raises(PitrError):
        repository.commit(Record(wrong(backup_of([fake_stream()])), None))
    assert list(repository.store.list("backups")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_a_record_beyond_the_size_limit_is_not_written(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "MAX_SIZE", 5000)
    with pytest.raises(FormatError, match="not read the record"):
        repository.commit(Record(backup_of([fake_stream(name="x" * 4000)]), None))
    assert list(repository.store.list("backups")) == []


def test_a_catalog_that_cannot_be_written_does_not_undo_a_commit(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repository.catalog.points() == []

    def fails(*_: object, **__: object) -> None:
        raise RepositoryError("the disk is full")

    monkeypatch.setattr(Catalog, "add", fails)
    backup = Writer(repository).add("64k:A")
    monkeypatch.undo()
    for stream in backup.streams:
        repository.drop_stream(stream.disk_id, stream.stream_id)
    assert repository.catalog.points() == [backup]
    assert read_point(repository, backup, backup.streams[0]) == b"A" * 65536


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RepositoryError("cannot sync the folder")])
def test_streams_with_a_written_record_are_kept_after_an_error(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    create = PosixStore.create

    def created_and_failed(store: PosixStore, name: str, data: bytes) -> None:
        create(store, name, data)
        if name.startswith("backups/"):
            raise error

    backup = Writer(repository).add("64k:A", commit=False)
    monkeypatch.setattr(PosixStore, "create", created_and_failed)
    with pytest.raises(type(error)):
        repository.commit(Record(backup, None))
    monkeypatch.undo()
    stream = backup.streams[0]
    repository.drop_stream(stream.disk_id, stream.stream_id)
    with Repository.open(repository.path) as again:
        assert read_point(again, backup, stream) == b"A" * 65536


def test_streams_without_a_written_record_are_dropped(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A", commit=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(RepositoryError):
            repository.commit(Record(backup, None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    stream = backup.streams[0]
    repository.drop_stream(stream.disk_id, stream.stream_id)
    assert stored(repository) == []
    assert list(repository.store.list("backups")) == []


def test_streams_of_a_removed_backup_can_be_dropped(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A")
    repository.remove([backup])
    repository.drop_stream(backup.streams[0].disk_id, backup.streams[0].stream_id)
    assert stored(repository) == []
    assert repository.catalog.points() == []


# Reading


def test_any_flipped_bit_in_a_stored_record_is_found(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A")
    path = record_path(repository, backup)
    for position in range(0, path.stat().st_size, 37):
        flip_bit(path, position, position % 8)
        with pytest.raises(StoredDamage) as raised:
            repository.record_of(backup.backup_id)
        assert (raised.value.damage.what, raised.value.damage.backup_id) == ("record", backup.backup_id)
        flip_bit(path, position, position % 8)
    repository.record_of(backup.backup_id)


def test_a_record_replaced_by_another_valid_one_is_found(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A")
    path = record_path(repository, backup)
    document = orjson.loads(path.read_bytes())
    del document["digest"]
    path.write_bytes(canonical.encode({**document, "consistency": "frozen"}))
    with pytest.raises(StoredDamage, match="changed after it was written") as raised:
        repository.record_of(backup.backup_id)
    assert raised.value.damage.kind == "inconsistent"


def test_a_record_under_the_name_of_another_is_found(repository: Repository) -> None:
    writer = Writer(repository)
    first, second = writer.add("64k:A"), writer.add("64k:B")
    one, two = record_path(repository, first), record_path(repository, second)
    one.write_bytes(two.read_bytes())
    with pytest.raises(StoredDamage, match="has the wrong name for backup"):
        repository.record_of(first.backup_id)


def test_a_record_that_cannot_be_read_is_damage_and_stops_nobody_else(
    repository: Repository, tmp_path: Path
) -> None:
    backup = Writer(repository).add("64k:A")
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (repository.path / "backups" / VM.id / "link.json").symlink_to(tmp_path / "elsewhere")
    (repository.path / "backups" / VM.id / "garbage.json").write_bytes(b"{}")
    (repository.path / "backups" / VM.id / "other-vm-name").write_bytes(b"")
    with Repository.open(repository.path) as again:
        assert again.catalog.points() == [backup]
        for name in ("link.json", "garbage.json"):
            with pytest.raises(StoredDamage):
                again.read_record(f"backups/{VM.id}/{name}")


def test_a_chain_of_hundreds_of_incrementals_reads(repository: Repository) -> None:
    """Most of them empty, as those of an idle disk are."""
    count = 400
    parent, previous = None, None
    backups = []
    for number in range(count):
        text = (
            "4k:A 4k:0" if number == 0 else ("8k:-" if number % 100 else f"{number}:- 1:B {8191 - number}:-")
        )
        new = new_stream(backup_id=f"backup-{number}", parent=parent)
        stream = store_stream(repository.store, source(text), new, workers=1)
        backup = backup_of(
            [stream],
            backup_id=new.backup_id,
            point=FIRST_POINT + timedelta(hours=number),
            parent_id=previous,
        )
        repository.store.create(names.record(VM.id, backup.point, backup.backup_id), record.encode(backup))
        parent, previous = stream.stream_id, backup.backup_id
        backups.append(backup)
    expected = bytearray(b"A" * 4096 + bytes(4096))
    for number in range(100, count, 100):
        expected[number] = ord("B")
    assert len(repository.chain(backups[-1], backups[-1].streams[0])) == count
    assert read_point(repository, backups[-1], backups[-1].streams[0]) == expected


def test_a_chain_that_goes_in_a_circle_ends(repository: Repository) -> None:
    one = fake_stream(0, parent="two")
    two = replace(fake_stream(0, parent="one"), stream_id="two")
    one = replace(one, stream_id="one")
    backups = [
        backup_of([one], backup_id="b-one", parent_id="b-two"),
        backup_of([two], backup_id="b-two", parent_id="b-one"),
    ]
    for backup in backups:
        repository.commit(Record(backup, None))
    with pytest.raises(StoredDamage) as raised:
        repository.chain(backups[0], one)
    assert raised.value.damage.what == "parent"


def test_a_parent_of_another_disk_is_no_parent(repository: Repository) -> None:
    full = backup_of([replace(fake_stream(0), stream_id="full")])
    wrong = backup_of([fake_stream(1, parent="full")], parent_id=full.backup_id)
    for backup in (full, wrong):
        repository.commit(Record(backup, None))
    with pytest.raises(StoredDamage, match="is not in backup"):
        repository.chain(wrong, wrong.streams[0])
    assert wrong.streams[0].disk_id == disk_id(1) != DISK_ID


# Locks


def test_a_second_process_is_told_who_works_on_the_vm(repository: Repository) -> None:
    holder = _holding(repository)
    try:
        with (
            pytest.raises(BusyError, match=f"the VM web: process {holder.pid} on ") as raised,
            repository.lock_vm(VM),
        ):
            pass
        assert raised.value.exit_code == 5
        with repository.lock_vm(VMName("another-vm", "db")):
            pass
    finally:
        holder.communicate("")
    with repository.lock_vm(VM):
        pass


def test_the_lock_of_a_killed_process_is_free(repository: Repository) -> None:
    holder = _holding(repository)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with repository.lock_vm(VM):
        pass


def test_locks_work_on_a_full_disk(repository: Repository) -> None:
    """You can restore and prune there; only the name of the lock's holder is missing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with repository.reading_vm(VM), pytest.raises(BusyError), repository.removing_from_vm(VM):
            pass
        with repository.removing_from_vm(VM), pytest.raises(BusyError, match="not written its name"):
            repository.reading_vm(VM).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_lock_is_free_after_an_error_and_not_reentrant(repository: Repository) -> None:
    with pytest.raises(KeyboardInterrupt), repository.lock_vm(VM):
        raise KeyboardInterrupt
    with repository.lock_vm(VM), pytest.raises(BusyError), repository.lock_vm(VM):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"null", b'{"pid": "x"}', b"\xff" * 5000, b'{"pid":1,"host":2,"since":3}']
)
def test_a_lock_file_with_invalid_content_still_locks(repository: Repository, content: bytes) -> None:
    with repository.lock_vm(VM):
        (repository.path / "locks" / f"{VM.id}.lock").write_bytes(content)
        with pytest.raises(BusyError, match="not written its name"), repository.lock_vm(VM):
            pass


@pytest.mark.parametrize("vm_id", ["../outside", "..", "/etc/x", "a b", "", ".catalog", "a\0"])
def test_an_untrusted_vm_id_creates_no_lock_outside(
    repository: Repository, tmp_path: Path, vm_id: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RepositoryError), repository.lock_vm(VMName(vm_id, "web")):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_linked_lock_file_is_refused(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (repository.path / "locks").mkdir(exist_ok=True)
    (repository.path / "locks" / f"{VM.id}.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RepositoryError, match="is a symbolic link"), repository.lock_vm(VM):
        pass
    assert (tmp_path / "precious").read_bytes() == b"precious"
