# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog is a cache of the records, and keeps lost ones."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import RepositoryError
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository, catalog_file, names, record
from pitr.repository.catalog import Catalog
from pitr.repository.damage import StoredDamage
from tests.support.points import FIRST_POINT, VM, Writer, backup_of, fake_stream, read_point, record_path

pytestmark = pytest.mark.usefixtures("quick_disk")

#: Programs find the package `tests` here.
_ROOT = Path(__file__).parents[2]

_ADDER = """
import sys
from pathlib import Path
from tests.support.points import backup_of, fake_stream
from pitr.model import Record, VMName
from pitr.repository import Repository
with Repository.open(Path(sys.argv[1])) as repository:
    sys.stdin.readline()
    for number in range(int(sys.argv[2])):
        repository.commit(Record(backup_of([fake_stream()], vm=VMName(f"vm-{sys.argv[3]}", "x")), None))
    print(len(repository.catalog.points(f"vm-{sys.argv[3]}")))
"""


def _put(repository: Repository, backup: Backup) -> None:
    """Store a record without the catalog, like a process that dies right after it."""
    name = names.record(backup.vm.id, backup.point, backup.backup_id)
    repository.store.create(name, record.encode(backup))


def _dump(repository: Repository) -> dict[str, list[dict[str, Any]]]:
    with Catalog.open(repository.catalog_path, read_only=True) as catalog:
        return catalog.dump()


@pytest.fixture
def written(repository: Repository) -> Writer:
    writer = Writer(repository)
    writer.add("64k:A", "64k:0")
    writer.add("64k:-", "64k:B")
    writer.add("64k:C", "64k:0", full=True)
    return writer


def test_a_deleted_catalog_is_rebuilt_row_for_row(written: Writer) -> None:
    repository = written.repository
    before, points = _dump(repository), repository.catalog.points()
    assert len(before["stream"]) == 6
    repository.catalog_path.unlink()
    with Repository.open(repository.path) as again:
        assert again.catalog.points() == points == written.backups[::-1]
    assert _dump(repository) == before


def test_a_rebuild_returns_the_same_catalog_and_no_differences(written: Writer) -> None:
    repository = written.repository
    before = _dump(repository)
    comparison = repository.rebuild_catalog()
    assert (comparison.points, comparison.streams) == (3, 6)
    assert comparison.differences == comparison.damaged == ()
    assert _dump(repository) == before
    assert repository.check_catalog() == comparison
    assert repository.catalog.points() == written.backups[::-1]
    assert repository.catalog_path.stat().st_mode & 0o777 == 0o600


def test_a_record_missing_from_the_catalog_is_added(written: Writer) -> None:
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    _put(written.repository, late)
    with Repository.open(written.repository.path) as again:
        assert again.catalog.points()[0] == late
        assert again.record_of(late.backup_id) == late


def test_the_points_of_one_vm_are_completed_without_the_other_vms(written: Writer) -> None:
    other = VMName("00000000-0000-4000-8000-0000000000ff", "other")
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    elsewhere = backup_of([fake_stream()], vm=other, point=FIRST_POINT + timedelta(days=1))
    _put(written.repository, late)
    _put(written.repository, elsewhere)
    for name in (VM.name, VM.id):
        with Repository.open(written.repository.path) as again:
            assert again.catalog_of_vm(name).points(VM.id)[0] == late
    with Repository.open(written.repository.path) as again:
        # A VM that is missing from the catalog is found by its name too.
        assert again.catalog_of_vm("other").points(other.id) == [elsewhere]


@pytest.mark.parametrize("length", [8, 36])
def test_a_point_missing_from_the_catalog_is_found_by_its_id(written: Writer, length: int) -> None:
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    _put(written.repository, late)
    with Repository.open(written.repository.path) as again:
        beginning = late.backup_id[:length]
        assert again.catalog_with_point(beginning).with_prefix(beginning) == [late]


def test_a_lookup_of_a_point_completes_its_vm(written: Writer) -> None:
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    _put(written.repository, late)
    with Repository.open(written.repository.path) as again:
        catalog = again.catalog_with_point(written.backups[0].backup_id)
        assert catalog.first_after(VM.id, written.backups[-1].point) == late


def test_a_lost_record_is_damage_and_not_a_forgotten_point(written: Writer) -> None:
    full, incremental, _ = written.backups
    record_path(written.repository, full).unlink()
    with Repository.open(written.repository.path) as again:
        assert len(again.catalog.points()) == 3
        with pytest.raises(StoredDamage) as raised:
            again.record_of(full.backup_id)
        assert (raised.value.damage.kind, raised.value.damage.backup_id) == ("missing", full.backup_id)
        with pytest.raises(StoredDamage):
            read_point(again, incremental, incremental.streams[0])
        differences = "\n".join(again.check_catalog().differences)
        assert f"point {full.backup_id}: in the catalog, but not in the records" in differences
        # A rebuild forgets the lost record.
        again.rebuild_catalog()
        assert [backup.backup_id for backup in again.catalog.points(VM.id)] == [
            backup.backup_id for backup in written.backups[:0:-1]
        ]


def test_a_rebuild_skips_and_names_a_damaged_record(written: Writer) -> None:
    path = record_path(written.repository, written.backups[2])
    path.write_bytes(path.read_bytes()[:-10])
    comparison = written.repository.rebuild_catalog()
    assert len(comparison.damaged) == 1
    assert written.backups[2].backup_id in comparison.damaged[0]
    assert comparison.points == 2


def _garbage(path: Path, kind: str) -> None:
    if kind == "another database":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE point (x)")
        connection.close()
    elif kind == "an older catalog":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes({"nothing": b"", "text": b"garbage\n" * 1000, "zeroes": bytes(40960)}[kind])


@pytest.mark.parametrize("kind", ["nothing", "text", "zeroes", "another database", "an older catalog"])
def test_a_file_that_is_not_a_catalog_is_replaced(written: Writer, kind: str) -> None:
    repository = written.repository
    before = _dump(repository)
    repository.close()
    _garbage(repository.catalog_path, kind)
    with Repository.open(repository.path) as again:
        assert again.catalog.points() == written.backups[::-1]
    assert _dump(repository) == before


@pytest.mark.parametrize("part", [0.2, 0.5, 0.95])
def test_a_damaged_catalog_can_be_rebuilt(written: Writer, part: float) -> None:
    repository = written.repository
    before = _dump(repository)
    repository.close()
    content = bytearray(repository.catalog_path.read_bytes())
    start = max(200, int(len(content) * part))
    content[start:] = b"\xa5" * (len(content) - start)
    repository.catalog_path.write_bytes(content)
    with Repository.open(repository.path) as again:
        again.rebuild_catalog()
        assert again.catalog.points() == written.backups[::-1]
    assert _dump(repository) == before


def test_a_stale_journal_is_not_applied_to_a_new_catalog(written: Writer) -> None:
    """A power failure interrupted a transaction, and then a user deleted the catalog."""
    repository = written.repository
    before = _dump(repository)
    repository.close()
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(repository.catalog_path, isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE stream_row SET name = hex(randomblob(4000))")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    journal = repository.catalog_path.with_name("catalog.db-journal")
    assert journal.stat().st_size > 512
    repository.catalog_path.unlink()
    with Repository.open(repository.path) as again:
        assert again.catalog.points() == written.backups[::-1]
    assert not journal.exists()
    assert _dump(repository) == before


def test_a_locked_catalog_is_not_replaced(written: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    from pitr.repository import sqlite

    repository = written.repository
    repository.close()
    record_path(repository, written.backups[0]).unlink()
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    other = sqlite3.connect(repository.catalog_path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with Repository.open(repository.path) as again, pytest.raises(RepositoryError, match="locked"):
            again.catalog.points()
    finally:
        other.close()
    with Repository.open(repository.path) as again:
        assert len(again.catalog.points()) == 3, "what it remembers of the lost record is still there"


_READER = """
import sys
from pathlib import Path
from tests.support.points import read_point
from pitr.errors import RepositoryError
from pitr.model import VMName
from pitr.repository import Repository
with Repository.open(Path(sys.argv[1])) as repository:
    points = repository.catalog.points()
    print(len(points), *sorted({len(read_point(repository, point, point.streams[0])) for point in points[1:]}))
    try:
        repository.rebuild_catalog()
    except RepositoryError as error:
        print("refused")
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs the right to mount",
)
@pytest.mark.parametrize("state", ["whole", "behind", "missing", "garbage"])
def test_a_repository_on_a_read_only_file_system_is_readable(written: Writer, state: str) -> None:
    repository = written.repository
    repository.close()
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    if state != "whole":
        _put(repository, late)
    else:
        repository.commit(Record(late, None))
    repository.close()
    if state == "missing":
        repository.catalog_path.unlink()
    if state == "garbage":
        repository.catalog_path.write_bytes(b"garbage" * 1000)
    before = {path: path.stat().st_mtime_ns for path in repository.path.rglob("*")}
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" "$1" && shift && exec "$@"',
        "sh",
        repository.path,
        sys.executable,
        "-c",
        _READER,
        repository.path,
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", *script], cwd=_ROOT, check=False, capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (["4", "65536", "refused"], "")
    assert {path: path.stat().st_mtime_ns for path in repository.path.rglob("*")} == before


def test_a_repository_on_a_full_disk_is_readable(written: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    late = backup_of([fake_stream()], point=FIRST_POINT + timedelta(days=1))
    _put(written.repository, late)

    def fails(catalog: Catalog, *args: Any, **kwargs: Any) -> None:
        if catalog._connection.execute("PRAGMA database_list").fetchone()[2]:
            raise RepositoryError("the disk is full")
        add(catalog, *args, **kwargs)

    add = Catalog.add
    monkeypatch.setattr(Catalog, "add", fails)
    with Repository.open(written.repository.path) as again:
        assert again.catalog.points()[0] == late
    written.repository.close()
    written.repository.catalog_path.unlink()
    monkeypatch.setattr(catalog_file, "scratch_file", _no_space)
    with Repository.open(written.repository.path) as again:
        assert len(again.catalog.points()) == 4


def _no_space(*_: object) -> Path:
    raise OSError(28, "No space left on device")


def test_two_processes_add_to_a_new_catalog_at_once(repository: Repository) -> None:
    count = 8
    adders = [
        subprocess.Popen(
            [sys.executable, "-c", _ADDER, repository.path, str(count), str(number)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    done = [adder.communicate("go\n") for adder in adders]
    assert done == [(f"{count}\n", "")] * 3
    assert len(repository.catalog.points()) == 3 * count
    assert repository.check_catalog().differences == ()


def test_concurrent_threads_create_one_catalog(repository: Repository) -> None:
    """Concurrent first uses do not fail, and keep the records that the others add."""
    for round_number in range(5):
        repository.catalog_path.unlink(missing_ok=True)
        barrier = threading.Barrier(6)
        failed: list[BaseException] = []

        def use(
            number: int, barrier: threading.Barrier = barrier, failed: list[BaseException] = failed
        ) -> None:
            try:
                with Repository.open(repository.path) as mine:
                    barrier.wait()
                    mine.catalog.points()
                    mine.commit(Record(backup_of([fake_stream()], vm=VMName(f"vm-{number}", "x")), None))
            except BaseException as error:  # noqa: BLE001 - shown below
                failed.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        with Repository.open(repository.path) as again:
            assert len(again.catalog.points()) == 6 * (round_number + 1)


def test_a_record_with_the_id_of_another_backup_adds_nothing_to_it(written: Writer) -> None:
    first = written.backups[0]
    _put(
        written.repository,
        backup_of([fake_stream(5)], backup_id=first.backup_id, point=FIRST_POINT - timedelta(1)),
    )
    with Repository.open(written.repository.path) as again:
        assert again.catalog.get(first.backup_id) == first


def test_hostile_names_are_stored_unchanged(repository: Repository) -> None:
    names_ = ["'; DROP TABLE point; --", "\x1b[2J", "a\0b", "ü" * 100, ""]
    for number, name in enumerate(names_):
        repository.commit(Record(backup_of([fake_stream(name=name)], vm=VMName(f"vm-{number}", name)), None))
    with Repository.open(repository.path) as again:
        again.catalog_path.unlink()
        assert sorted(vm.name for vm in again.catalog.vms()) == sorted(names_)
        assert sorted(backup.streams[0].name for backup in again.catalog.points()) == sorted(names_)


def test_a_vm_has_its_latest_name(repository: Repository) -> None:
    for hours, name in ((5, "new"), (0, "old"), (3, "between")):
        point = FIRST_POINT + timedelta(hours=hours)
        repository.commit(Record(backup_of([fake_stream()], vm=VMName(VM.id, name), point=point), None))
    assert repository.catalog.vms() == [VMName(VM.id, "new")]


def test_the_backups_based_on_a_backup_are_found(written: Writer) -> None:
    full, incremental, later = written.backups
    catalog = written.repository.catalog
    assert catalog.descendants(full.backup_id) == [full.backup_id, incremental.backup_id]
    assert catalog.descendants(later.backup_id) == [later.backup_id]
    assert catalog.dependants(full.streams[1].stream_id) == [full.backup_id, incremental.backup_id]
    assert catalog.dependants(incremental.streams[0].stream_id) == [incremental.backup_id]
    assert catalog.dependants("nothing") == []
