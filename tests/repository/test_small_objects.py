# SPDX-License-Identifier: GPL-2.0-or-later
"""Configurations apart from their records, and the notes that a record is about to be stored."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pitr import times
from pitr.errors import RepositoryError
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.upkeep import small_objects
from pitr.jobs.upkeep.prune import Removal, prune
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository, configurations, lock, names
from pitr.repository.catalog import Catalog
from pitr.repository.damage import StoredDamage
from tests.support.pitr import Pitr
from tests.support.points import Writer, backup_of, flip_bit, read_point

OVF = "<ovf:Envelope/>"
OTHER = VMName("11111111-0000-4000-8000-000000000002", "db")


def path_of(repository: Repository, backup: Backup) -> Path:
    assert backup.configuration is not None
    return repository.path / "configurations" / backup.configuration.digest


def with_configuration(repository: Repository, text: str, vm: VMName = OTHER, hours: int = 0) -> Backup:
    """Commit a point without disks."""
    point = datetime(2020, 6, 30, tzinfo=UTC) + timedelta(hours=hours)
    return repository.commit(Record(backup_of(vm=vm, point=point), text))


def collected(repository: Repository) -> list[str]:
    """The unreferenced objects that prune removes without a grace time."""
    removal = Removal(repository, dry_run=False, delete_external=None, notify=pytest.fail)
    removal.of_unreferenced(timedelta(seconds=-1))
    assert removal.result.failed == []
    return removal.result.unreferenced


# -- configurations


def test_points_of_any_vm_share_a_configuration_until_the_last_one_goes(repository: Repository) -> None:
    first, second = (
        with_configuration(repository, OVF),
        with_configuration(repository, OVF, VMName("v2", "b")),
    )
    changed = with_configuration(repository, "<changed/>", hours=1)
    assert path_of(repository, first) == path_of(repository, second) != path_of(repository, changed)
    assert sorted(file.name for file in (repository.path / "configurations").iterdir()) == sorted(
        blake3(text.encode()).hexdigest() for text in (OVF, "<changed/>")
    )
    # Rules keep the newest point of the first VM, the changed one.
    done = prune(repository, Retention(last=1), [OTHER], notify=pytest.fail)
    assert [backup.backup_id for backup in done.removed] == [first.backup_id]
    assert configurations.read(repository.store, second) == OVF
    assert collected(repository) == []
    done = prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)
    assert not done.removed
    with repository.removing_from_vm(second.vm):
        repository.remove([second])
    assert collected(repository) == [names.configuration(blake3(OVF.encode()).hexdigest())]
    assert configurations.read(repository.store, changed) == "<changed/>"


def test_prune_removes_a_configuration_with_its_last_point_and_counts_it(repository: Repository) -> None:
    old = with_configuration(repository, OVF * 100)
    with_configuration(repository, "<changed/>", hours=1)
    size = path_of(repository, old).stat().st_size + len(
        repository.store.read(names.record(old.vm.id, old.point, old.backup_id), limit=1 << 20)
    )
    planned = prune(repository, Retention(last=1), [OTHER], dry_run=True, notify=pytest.fail)
    assert path_of(repository, old).exists()
    done = prune(repository, Retention(last=1), [OTHER], notify=pytest.fail)
    assert not path_of(repository, old).exists()
    assert planned.freed_bytes == done.freed_bytes == size


def test_a_young_configuration_without_a_record_stays_for_the_grace_time(repository: Repository) -> None:
    used = with_configuration(repository, OVF)
    configurations.add(repository.store, b"<interrupted/>")
    name = names.configuration(blake3(b"<interrupted/>").hexdigest())
    prune(repository, Retention(last=1), [], notify=pytest.fail)
    assert repository.store.size(name)
    week_ago = datetime.now().timestamp() - 7 * 86400
    for file in (repository.path / "configurations").iterdir():
        os.utime(file, (week_ago, week_ago))
    done = prune(repository, Retention(last=1), [], notify=pytest.fail)
    assert done.unreferenced == [name]
    assert configurations.read(repository.store, used) == OVF


def test_a_commit_waits_while_configurations_are_removed_and_stores_its_own_again(
    repository: Repository,
) -> None:
    with_configuration(repository, "<other/>")
    configurations.add(repository.store, OVF.encode())
    name = names.configuration(blake3(OVF.encode()).hexdigest())
    committed: list[Backup] = []

    def commit() -> None:
        with Repository.open(repository.path) as beside:
            committed.append(with_configuration(beside, OVF, hours=1))

    with configurations.removing(repository.path):
        running = threading.Thread(target=commit)
        running.start()
        running.join(0.2)
        assert running.is_alive() and not committed
        repository.store.delete(name)
    running.join()
    assert configurations.read(repository.store, committed[0]) == OVF


def test_a_removal_waits_until_the_catalog_knows_what_is_committed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_other_vm = with_configuration(repository, OVF, VMName("v2", "b"))
    with repository.removing_from_vm(of_other_vm.vm):
        repository.remove([of_other_vm])
    opened, stored = threading.Event(), threading.Event()

    def remove() -> None:
        with Repository.open(repository.path) as beside:
            assert beside.catalog.vms() == []
            opened.set()
            assert stored.wait(60)
            small_objects.remove_configurations(
                beside, [names.configuration(blake3(OVF.encode()).hexdigest())]
            )

    removing = threading.Thread(target=remove)
    add = Catalog.add

    def add_later(catalog: Catalog, *entry: Any, **kwargs: Any) -> None:
        stored.set()
        removing.join(0.2)
        add(catalog, *entry, **kwargs)

    removing.start()
    assert opened.wait(60)
    monkeypatch.setattr(Catalog, "add", add_later)
    committed = with_configuration(repository, OVF)
    monkeypatch.undo()
    removing.join()
    assert configurations.read(repository.store, committed) == OVF


def test_commits_do_not_wait_for_each_other(repository: Repository) -> None:
    with lock.wait_to_share(repository.path / names.CONFIGURATIONS_LOCK, "the VMs' configurations"):
        with_configuration(repository, OVF)


@pytest.mark.parametrize("harm", ["missing", "corrupt", "truncated", "longer", "no text"])
def test_a_damaged_configuration_is_told_and_its_disks_are_restored(
    repository: Repository, command: Pitr, tmp_path: Path, harm: str
) -> None:
    writer = Writer(repository)
    writer.add("64k:A")
    backup = writer.add("4k:B 60k:-")
    path = path_of(repository, backup)
    if harm == "missing":
        path.unlink()
    elif harm == "corrupt":
        flip_bit(path, 3)
    else:
        path.write_bytes({"truncated": b"<ovf", "longer": OVF.encode() + b" ", "no text": b"\xff" * 15}[harm])
    kind = harm if harm in ("missing", "truncated") else "corrupt"
    with pytest.raises(StoredDamage, match="its disks can be restored without it"):
        configurations.read(repository.store, backup)
    for level in ("--quick", "--sample=50"):
        found = command.json("verify", level, code=3)
        assert [(each["what"], each["kind"], each["points_lost"]) for each in found["damage"]] == [
            ("configuration", kind, [])
        ]
    # It loses no disk, so it is no finding about the points, and the next backup goes on.
    listed = command.json("list")["points"]
    assert [point["damaged"] for point in listed] == [False, False]
    image = tmp_path / "disk.raw"
    command("restore", "--point", backup.backup_id, "--to-file", image)
    assert image.read_bytes() == b"B" * 4096 + b"A" * (60 << 10)
    # The next backup of the VM has the same configuration and mends it.
    writer.add("64k:-")
    assert configurations.read(repository.store, backup) == OVF
    assert command.json("verify")["ok"]


def test_a_damaged_configuration_does_not_stop_consolidate_or_prune(repository: Repository) -> None:
    writer = Writer(repository)
    for text in ("64k:A", "4k:B 60k:-", "4k:- 4k:C 56k:-"):
        writer.add(text)
    path_of(repository, writer.backups[0]).unlink()
    (new,) = consolidate(repository, writer.backups[1]).created
    assert new.configuration == writer.backups[1].configuration
    prune(repository, Retention(last=2), repository.catalog.vms(), notify=pytest.fail)
    newest = repository.catalog.points()[0]
    assert read_point(repository, newest, newest.streams[0])[:8192] == b"B" * 4096 + b"C" * 4096
    assert [damage.what for damage in verify(repository, Scope(), "full").damage] == ["configuration"]


def test_junk_between_the_configurations_is_no_configuration(repository: Repository) -> None:
    backup = with_configuration(repository, OVF)
    folder = repository.path / "configurations"
    (folder / ".partial").write_bytes(b"")
    (folder / "two words").write_bytes(b"")
    (folder / "folder").mkdir()
    assert collected(repository) == []
    assert configurations.read(repository.store, backup) == OVF


# -- commit notes


def test_each_record_has_a_note_of_the_day_that_leads_to_it(repository: Repository) -> None:
    backup = with_configuration(repository, OVF)
    (note,) = repository.store.list(names.COMMITS)
    day = times.now().strftime("%Y%m%d")
    assert note == f"commits/{day}/20200630T000000.000000Z-{OTHER.id}-{backup.backup_id}"
    assert repository.store.size(note) == 0
    # An id can contain hyphens: some reading of the name is the record's.
    point, _, ids = note.rpartition("/")[2].partition("-")
    readings = [
        f"backups/{ids[:at]}/{point}-{ids[at + 1 :]}.json" for at, letter in enumerate(ids) if letter == "-"
    ]
    records = list(repository.store.list(names.BACKUPS))
    assert [reading for reading in readings if reading in records] == records


def test_a_note_comes_before_its_record_and_one_without_a_record_does_no_harm(
    repository: Repository, command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = repository.store.create

    def interrupted(name: str, data: bytes) -> None:
        if name.startswith("backups/"):
            raise RepositoryError("the connection is gone")
        create(name, data)

    with_configuration(repository, OVF)
    with monkeypatch.context() as patch:
        patch.setattr(repository.store, "create", interrupted)
        with pytest.raises(RepositoryError):
            with_configuration(repository, OVF, hours=1)
    assert len(list(repository.store.list(names.COMMITS))) == 2
    assert len(list(repository.store.list(names.BACKUPS))) == 1
    assert len(command.json("list")["points"]) == 1
    assert command.json("verify")["ok"] and command.json("catalog", "check")["ok"]


def test_old_notes_go_and_those_of_31_days_stay(repository: Repository) -> None:
    now = times.now()
    days = {age: (now - timedelta(days=age)).strftime("%Y%m%d") for age in (0, 1, 30, 31, 33, 400)}
    for age, day in days.items():
        name = f"commits/{day}/20200630T000000.000000Z-vm-backup"
        repository.store.create(name, b"")
        # The name alone does not decide: the clock of the host may have been wrong.
        written = (now - timedelta(days=age)).timestamp()
        os.utime(repository.path / name, (written, written))
    repository.store.create(f"commits/{days[400]}/20200630T000000.000000Z-vm-wrong-clock", b"")
    repository.store.create("commits/junk/file", b"")
    (repository.path / "commits/file").write_bytes(b"")
    prune(repository, Retention(last=1), [], notify=lambda line: None)
    left = {name.split("/")[1] for name in repository.store.list(names.COMMITS)}
    assert left >= {days[0], days[1], days[30], days[31], "junk", "file"}
    assert days[33] not in left
    assert [name.rpartition("-")[2] for name in repository.store.list(f"{names.COMMITS}/{days[400]}")] == [
        "clock"
    ]
