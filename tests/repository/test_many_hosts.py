# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever the hosts of one bucket do at the same time, no record ever lacks what it needs, and no point is lost.

Hypothesis draws what three writers and two hosts that prune do, in which order their requests reach the store, when a
host dies, and how time passes. The real code runs on each host, one request at a time.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr import times
from pitr.errors import BaseRemoved, BusyError
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.upkeep.undo_prune import undo
from pitr.model import Backup, Kind, Part, Record, StoredObject, Stream
from pitr.repository import Repository, names, record, removed_points, sqlite
from pitr.repository.hidden import based_on
from tests.support.memory_bucket import GRACE, Bucket, Crash
from tests.support.points import DISK_ID, VM, backup_of, new_stream
from tests.support.stored_points import SOAK

_WRITERS, _HOSTS = 3, 5
_SECOND = timedelta(seconds=1)
#: How time passes between two requests. A long time never passes while a host is about to write a record.
_PAUSES = [timedelta(), timedelta(), timedelta(), _SECOND / 2, GRACE / 5, GRACE * 3 / 5, GRACE + 2 * _SECOND]
_CONFIGURATIONS = ["<a/>", "<b/>"]
_BYTES = b"x"
_STORED = StoredObject(1, "0" * 64)

_WRITES = st.one_of(
    st.tuples(st.just("back up"), st.integers(0, 2), st.sampled_from(_CONFIGURATIONS)),
    st.tuples(st.just("back up"), st.integers(0, 1), st.sampled_from(_CONFIGURATIONS)),
    st.tuples(st.just("full"), st.just(0), st.sampled_from(_CONFIGURATIONS)),
    st.tuples(st.just("consolidate"), st.integers(0, 3), st.just("")),
)
_REMOVALS = st.one_of(
    st.tuples(st.just("prune"), st.integers(1, 3), st.just("")),
    st.tuples(st.just("undo"), st.just(0), st.just("")),
)
Work = tuple[str, int, str]


@dataclass(frozen=True)
class Plan:
    """What the hosts do, and in which order.

    A step says which host is next, with how many requests, how much time passes before, and whether the host dies then.
    """

    work: list[list[Work]]
    steps: list[tuple[int, int, timedelta, bool]]
    clocks: list[int]
    late_lists: bool


_PLANS = st.builds(
    Plan,
    st.tuples(
        *[st.lists(_WRITES, min_size=1, max_size=5)] * _WRITERS,
        *[st.lists(_REMOVALS, min_size=3, max_size=8)] * (_HOSTS - _WRITERS),
    ).map(list),
    st.lists(
        st.tuples(
            st.integers(0, _HOSTS - 1),
            st.sampled_from([1, 1, 2, 4, 8, 16, 32, 64]),
            st.sampled_from(_PAUSES),
            st.integers(0, 60).map(lambda number: number == 1),
        ),
        min_size=20,
        max_size=80,
    ),
    st.lists(st.integers(-400, 400), min_size=_HOSTS, max_size=_HOSTS),
    st.booleans(),
)


class Host:
    """A host: a thread that stops before each request until `step` lets it go on."""

    def __init__(self, site: Site, number: int, work: Sequence[Work]) -> None:
        self.site = site
        self.number = number
        self.work = list(work)
        self.dead = False
        self.done = False
        self.committing = False
        self.failure: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._stopped.acquire()

    def step(self, *, dies: bool = False) -> None:
        """Let the host carry out one request, and what follows until the next one."""
        self.dead = self.dead or dies
        self._go.release()
        self._stopped.acquire()

    def before_request(self, kind: str, name: str) -> None:
        if self.dead:
            raise Crash
        self._stopped.release()
        self._go.acquire()
        if self.dead:
            raise Crash
        # From the look at the tombstones until the record, a host may not stop for days.
        if kind == "create" and name.startswith("commits/"):
            self.committing = True
        elif kind == "create" and name.startswith("backups/"):
            self.committing = False

    def _run(self) -> None:
        try:
            for kind, number, text in self.work:
                # Nor while it takes back what is swept soon.
                self.committing = kind == "undo"
                try:
                    with self.site.bucket.host(self.site.folder / str(self.number)) as repository:
                        self.site.act(repository, kind, number, text)
                except (BaseRemoved, BusyError):
                    continue
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error
        self.done, self.committing = True, False
        self._stopped.release()


class Site:
    """A bucket with the hosts of a plan, and what must always be true of it."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.bucket = Bucket()
        self.bucket.on_request = self._on_request
        self.bucket.late_lists = plan.late_lists
        self.hosts = [Host(self, number, work) for number, work in enumerate(plan.work)]
        self.committed: list[str] = []
        self._number = 0

    def run(self) -> None:
        for host in self.hosts:
            host.start()
        steps = iter(self.plan.steps)
        while waiting := [host for host in self.hosts if not host.done]:
            number, requests, pause, dies = next(steps, (0, 1, timedelta(), False))
            if pause <= _SECOND or not any(each.committing for each in waiting):
                self.bucket.now += pause
            self._let(waiting[number % len(waiting)], requests, dies)

    def _let(self, host: Host, requests: int, dies: bool) -> None:
        for _ in range(requests):
            before = len(self.bucket.objects)
            host.step(dies=dies)
            if len(self.bucket.objects) > before:
                self.check()
            if host.failure is not None:
                raise host.failure
            if host.done:
                break

    def now(self) -> datetime:
        """The time by the clock of the host that asks."""
        host = self._host()
        return self.bucket.now + timedelta(days=self.plan.clocks[host.number] if host is not None else 0)

    # What hosts do

    def act(self, repository: Repository, kind: str, number: int, text: str) -> None:
        if kind == "prune":
            vms = repository.catalog.vms()
            done = prune(repository, Retention(last=number), vms, notify=lambda line: None)
            assert not [each.error for each in done.failed if not isinstance(each.error, BusyError)], (
                done.failed
            )
        elif kind == "undo":
            undo(repository, ())
        else:
            with repository.lock_vm(VM):
                points = repository.catalog_of_vm(VM.id).points(VM.id)
                if kind == "consolidate":
                    self._consolidate(repository, points, number)
                else:
                    base = points[number] if kind == "back up" and number < len(points) else None
                    self._back_up(repository, base, text)

    def _back_up(self, repository: Repository, base: Backup | None, configuration: str) -> None:
        backup_id = str(uuid.uuid4())
        parent = base.streams[0].stream_id if base is not None else None
        stream = _stream(backup_id, parent)
        repository.store.create(names.blob(DISK_ID, stream.stream_id), _BYTES)
        repository.store.create(names.index(DISK_ID, stream.stream_id), _BYTES)
        new = backup_of(
            [stream],
            backup_id=backup_id,
            point=self._point(),
            parent_id=base.backup_id if base is not None else None,
        )
        self._commit(repository, new, configuration)

    def _consolidate(self, repository: Repository, points: Sequence[Backup], number: int) -> None:
        if number >= len(points) or points[number].kind is not Kind.INCREMENTAL:
            return
        old = points[number]
        parts: list[Part] = []
        for backup, link in repository.chain(old, old.streams[0]):
            parts += link.parts or [Part(DISK_ID, link.stream_id, 1, _STORED)]
            assert backup is not None
        stream = replace(
            _stream("", None),
            kind=Kind.SYNTHETIC,
            blob=None,
            parts=tuple(sorted(set(parts), key=lambda part: part.stream_id)),
            index_copy=_STORED,
        )
        repository.store.create(names.index(DISK_ID, stream.stream_id), _BYTES)
        repository.store.create(names.index_copy(DISK_ID, stream.stream_id), _BYTES)
        new = replace(
            old,
            backup_id=str(uuid.uuid4()),
            kind=Kind.SYNTHETIC,
            reason=None,
            parent_id=None,
            streams=(stream,),
            stands_for=old.backup_id,
        )
        self._commit(repository, new, None)
        removed_points.hide(repository, [old])

    def _commit(self, repository: Repository, backup: Backup, configuration: str | None) -> None:
        repository.commit(Record(backup, configuration))
        self.committed.append(backup.backup_id)

    def _point(self) -> datetime:
        self._number += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=self._number)

    # What must be true

    def _on_request(self, kind: str, name: str) -> None:
        host = self._host()
        if host is None:
            return
        host.before_request(kind, name)
        if kind == "delete" and name.startswith("backups/") and name in self.bucket.objects:
            backup_id = names.backup_of_record(name) or ""
            _, written = self.bucket.objects[names.tombstone(VM.id, backup_id)]
            assert self.bucket.now - written >= GRACE, "a record went before its time"
        if kind == "delete" and name.partition("/")[0] in ("backups", "blobs", "indexes"):
            self.check({name})

    def _host(self) -> Host | None:
        current = threading.current_thread()
        return next((host for host in self.hosts if host._thread is current), None)

    def check(self, without: Set[str] = frozenset()) -> None:
        """Check that each record has all that it needs, and that each committed point is there or was swept."""
        objects = self.bucket.objects.keys() - without
        backups = [
            record.decode(data)
            for name, (data, _) in self.bucket.objects.items()
            if name.startswith("backups/") and name in objects
        ]
        buried = {name.rpartition("/")[2] for name in self.bucket.names("tombstones")}
        parents = based_on(backups, buried)
        for backup in backups:
            [stream] = backup.streams
            parent = parents[backup.backup_id]
            assert parent is None or parent in parents, f"{backup.backup_id} lost its base"
            needed = {names.index(DISK_ID, stream.stream_id)}
            if stream.blob is not None:
                needed.add(names.blob(DISK_ID, stream.stream_id))
            else:
                needed.add(names.index_copy(DISK_ID, stream.stream_id))
            needed |= {names.blob(DISK_ID, part.stream_id) for part in stream.parts}
            assert needed <= objects, f"{backup.backup_id} lost {needed - objects}"
        swept = {name.rpartition("/")[2] for name in self.bucket.names("swept")}
        assert set(self.committed) <= parents.keys() | swept


def _stream(backup_id: str, parent: str | None) -> Stream:
    new = new_stream(backup_id=backup_id, parent=parent)
    return Stream(
        stream_id=new.stream_id,
        disk_id=DISK_ID,
        name=new.name,
        kind=new.kind,
        reason=None,
        size=4096,
        parent_stream_id=parent,
        frame_size=4096,
        data_bytes=1,
        zero_bytes=0,
        extents=1,
        blob=_STORED,
        index=_STORED,
        settings=new.settings,
    )


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, with catalogs that are not made durable."""
    connect: Callable[..., sqlite3.Connection] = sqlite._connect

    def quick(path: Path, options: str) -> sqlite3.Connection:
        connection = connect(path, options)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(sqlite, "_connect", quick)
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@settings(
    max_examples=2000 if SOAK else 16,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=_PLANS)
def test_no_record_lacks_what_it_needs_and_no_point_is_lost(
    plan: Plan, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(memory / "hosts", plan)
    with monkeypatch.context() as patch:
        patch.setattr(times, "now", site.now)
        site.run()
    shutil.rmtree(site.folder, ignore_errors=True)
    # Whoever comes later finds all points, and can read and remove them.
    site.bucket.on_request = lambda kind, name: None
    site.bucket.now += 2 * _SECOND
    site.check()
    with site.bucket.host(memory / "hosts" / "last") as repository:
        visible = repository.catalog.points()
        for backup in visible:
            repository.chain(backup, backup.streams[0])
        hidden = removed_points.of_vm(repository, None)
        assert {backup.backup_id for backup in visible} | {each.backup.backup_id for each in hidden} == {
            names.backup_of_record(name) for name in site.bucket.names("backups")
        }
    shutil.rmtree(site.folder, ignore_errors=True)
