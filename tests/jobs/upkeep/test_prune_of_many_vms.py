# SPDX-License-Identifier: GPL-2.0-or-later
"""Prune goes VM by VM: neither locks nor memory grow with the repository, and no running backup loses its streams."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.upkeep.point_list import PointList
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Record, VMName
from pitr.repository import Repository, names, record
from tests.support import points
from tests.support.points import FIRST_POINT, Writer, backup_of, fake_stream
from tests.support.stored_records import many

pytestmark = pytest.mark.usefixtures("quick_disk")

_ROOT = Path(__file__).parents[3]
_ORPHAN = "99999999-9999-4999-8999-999999999999"
#: Prunes all VMs with 64 open files, and prints what became of the points and the unreferenced objects.
_PROGRAM = """
import resource, sys
from pathlib import Path
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.repository import Repository
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with Repository.open(Path(sys.argv[1])) as repository:
    done = prune(repository, Retention(last=1), repository.catalog.vms(), notify=print)
    print(len(done.removed), len(done.kept), len(done.unreferenced), done.exit_code)
"""


def _old(repository: Repository, name: str, seconds: float = 90_000) -> Path:
    path = repository.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"x")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def _pruned(repository: Repository, *vms: VMName, **options: Any) -> tuple[Pruned, list[str]]:
    said: list[str] = []
    done = prune(
        repository, Retention(last=9), vms or repository.catalog.vms(), notify=said.append, **options
    )
    return done, said


def test_more_vms_than_open_files_are_pruned(repository: Repository) -> None:
    for number in range(150):
        for hours in range(2):
            vm = VMName(f"vm-{number}", f"web{number}")
            point = FIRST_POINT + timedelta(hours=hours)
            repository.commit(Record(backup_of([fake_stream(number)], vm=vm, point=point), None))
        with repository.lock_vm(VMName(f"vm-{number}", "")):
            pass
    _old(repository, names.blob("some-disk", _ORPHAN))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, repository.path],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["150", "150", "1", "0"]


def test_streams_of_a_backup_that_runs_for_days_stay_and_older_ones_go(repository: Repository) -> None:
    Writer(repository).add("64k:A")
    running = VMName("another", "db1")
    long_ago = _old(repository, names.blob("moved-disk", _ORPHAN), 300_000)
    written = _old(repository, names.blob("moved-disk", "of-the-running-backup"), 100_000)
    with Repository.open(repository.path) as other, other.lock_vm(running):
        # The run began before it wrote the stream, and both are older than the grace time.
        os.utime(repository.path / names.lock(running.id), (time.time() - 200_000,) * 2)
        done, said = _pruned(repository)
        assert (done.unreferenced, said) == ([long_ago.relative_to(repository.path).as_posix()], [])
        assert written.exists() and not long_ago.exists()
    # The run ended without a record.
    assert len(_pruned(repository)[0].unreferenced) == 1
    assert not written.exists()


def test_a_backup_of_another_vm_does_not_wait_and_is_not_waited_for(repository: Repository) -> None:
    Writer(repository).add("64k:A")
    orphan = _old(repository, names.blob("some-disk", _ORPHAN))
    with Repository.open(repository.path) as other, other.lock_vm(VMName("another", "db1")):
        _pruned(repository)
        assert not orphan.exists()


def test_prune_of_one_vm_removes_only_what_its_own_backups_left(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(repository)
    kept = writer.add("64k:A")
    failed = writer.add("64k:B", full=True, commit=False)
    own = failed.streams[0]
    other = Writer(repository, VMName("another", "db1"))
    # A blob says which VM it is of.
    monkeypatch.setattr(points, "VM", other.vm)
    foreign = other.add("64k:C", commit=False).streams[0]
    for stream in (own, foreign):
        for name in (
            names.blob(stream.disk_id, stream.stream_id),
            names.index(stream.disk_id, stream.stream_id),
        ):
            _old(repository, name)
    done, _ = _pruned(repository, kept.vm, only=True, dry_run=True)
    assert done.unreferenced == sorted(
        [names.blob(own.disk_id, own.stream_id), names.index(own.disk_id, own.stream_id)]
    )
    done, _ = _pruned(repository, kept.vm, only=True)
    assert not (repository.path / names.blob(own.disk_id, own.stream_id)).exists()
    assert (repository.path / names.blob(foreign.disk_id, foreign.stream_id)).exists()
    assert len(_pruned(repository)[0].unreferenced) == 2


def test_a_record_that_another_process_committed_meanwhile_keeps_its_streams(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record comes after the catalog was read, and before the search; the catalog's file does not have it."""
    writer = Writer(repository)
    writer.add("64k:A")
    late = writer.add("64k:B", full=True, commit=False)
    stream = late.streams[0]
    blob = _old(repository, names.blob(stream.disk_id, stream.stream_id))
    before = Repository.before_all_writers

    def commits(self: Repository, limit: object) -> object:
        name = names.record(late.vm.id, late.point, late.backup_id)
        repository.store.create(name, record.encode(late))
        return before(self, limit)  # type: ignore[arg-type]

    monkeypatch.setattr(Repository, "before_all_writers", commits)
    with Repository.open(repository.path) as pruning:
        assert _pruned(pruning)[0].unreferenced == []
    assert blob.exists()


@pytest.mark.parametrize("broken", [False, True])
def test_a_list_of_points_is_that_list(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    listed = PointList()
    backups = [
        backup_of([fake_stream()], point=FIRST_POINT + timedelta(hours=number)) for number in range(200)
    ]
    if broken:
        monkeypatch.setattr(listed._file, "write", full)
    for number, backup in enumerate(backups):
        listed.add(backup, [f"reason {number}"])
    assert listed == backups and list(listed) == backups and len(listed) == 200
    assert [item.reasons for item in listed.items()] == [(f"reason {number}",) for number in range(200)]
    assert listed.count_of_vm(backups[0].vm.id) == 200
    assert listed[3] == backups[3]


def test_the_memory_of_a_plan_does_not_grow_with_the_points(repository: Repository) -> None:
    """At most 600 bytes a point, in text and in JSON; a few megabytes of modules and buffers in any case."""
    first, second = 1500, 6000
    used: dict[str, list[int]] = {"text": [], "json": []}
    for count, start in ((first, 0), (second - first, first)):
        many(repository, vms=count // 50, points=50, start=start // 50)
        for form, peaks in used.items():
            peaks.append(_memory(repository, "prune", "--keep-last", "10", "--dry-run", "--output", form))
    for few, many_points in used.values():
        assert many_points - few < 600 * (second - first)


def _memory(repository: Repository, *arguments: str) -> int:
    """Return the peak memory of a command in bytes."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, sys.executable, "-m", "pitr", *arguments],
        env={**os.environ, "PITR_REPO": str(repository.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) * 1024
