# SPDX-License-Identifier: GPL-2.0-or-later
"""What a worker does: jobs as frozen values, and one function that carries them out.

A task has names, ids and options, no password and no key: the worker has these itself, from its own settings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from pitr.endpoints.images.shared_file import SharedFile
from pitr.errors import RepositoryError, UsageError
from pitr.jobs.backup.one_task import BackupTask, MadePoint, Teller, carry_out
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.jobs.restore.one_range import DiskRange, RangeCopied, copy_range
from pitr.jobs.verify.big_blobs import RangeChecked, check_range
from pitr.jobs.verify.blob_check import BlobRange
from pitr.jobs.verify.drill import drill
from pitr.jobs.verify.stored_data import Level, Scope, Verified, verify
from pitr.model import Backup
from pitr.ovirt.engine import Engine, EngineConfig
from pitr.reporting import about_vm
from pitr.repository import Repository, lock
from pitr.repository.drills import Drill
from pitr.repository.location import Location, full_text
from pitr.system.forked import Call


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker takes from its own environment and configuration: its repository and its engine.

    `reachable` returns the location that a text names, with the worker's own settings for it. `name` names the machine.
    """

    repository: Location | None
    engine: EngineConfig | None
    reachable: Callable[[str], Location]
    name: str = "this machine"


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification of one VM, one point, or everything; `share` and `spread` as in Scope."""

    vm_id: str | None
    backup_id: str | None
    level: Level
    sample_percent: float | None
    workers: int
    share: tuple[int, int] | None = None
    spread: frozenset[str] = frozenset()

    def point(self, repository: Repository) -> Backup | None:
        """Return the point to verify, also if its record is damaged; None for more than one point."""
        if self.backup_id is None:
            return None
        return repository.catalog.get(self.backup_id) or repository.record_of(self.backup_id)


@dataclass(frozen=True, slots=True)
class BlobRead:
    """A check of a range of the blob of a stream; of the digest of the whole blob if `place` is None."""

    name: str
    backup_id: str
    stream_id: str
    place: BlobRange | None
    sample_percent: float | None
    workers: int


@dataclass(frozen=True, slots=True)
class TrialRestore:
    """A drill of a point."""

    backup_id: str
    folder: Path | None
    digests_only: bool
    workers: int


@dataclass(frozen=True, slots=True)
class PointRead:
    """A range of a disk of a point, to write to `file`, or (None) to compare its digests only."""

    name: str
    backup_id: str
    disk_id: str
    part: DiskRange
    file: SharedFile | None
    workers: int


@dataclass(frozen=True, slots=True)
class Consolidation:
    """A consolidation of a point."""

    backup_id: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Replication:
    """A copy to the repository at `target`. The source is the repository at `source`."""

    source: str
    target: str
    options: ReplicateOptions


Job = BackupTask | Verification | BlobRead | PointRead | TrialRestore | Consolidation | Replication


@dataclass(frozen=True, slots=True)
class FleetTask:
    """A job for the repository with this id. `wait_lock_s`: wait so long for another pitr that works on the VM."""

    job: Job
    repository_id: str
    wait_lock_s: float = 0.0


def perform(setup: Setup, task: FleetTask, call: Call) -> Any:
    """Carry out the task. Raises PitrError; Interrupted once the call is stopped."""
    job = task.job
    location = setup.reachable(job.source) if isinstance(job, Replication) else setup.repository
    if location is None:
        raise UsageError(
            f"{setup.name} has no repository",
            "Give the worker --repo, or set PITR_REPO, as for 'pitr backup'.",
        )
    with ExitStack() as stack:
        if task.wait_lock_s:
            stack.enter_context(lock.waiting(task.wait_lock_s))
        stack.enter_context(about_vm(job.name if isinstance(job, BackupTask) else None))
        repository = stack.enter_context(Repository.open(location))
        if repository.id != task.repository_id:
            raise RepositoryError(
                f"{setup.name} has another repository, at {full_text(location)}",
                "Give the worker the repository of the caller: --repo or PITR_REPO of 'pitr worker'.",
            )
        return _performed(setup, repository, job, call)


def _performed(setup: Setup, repository: Repository, job: Job, call: Call) -> Any:
    match job:
        case BackupTask():
            return _back_up(setup, repository, job, call)
        case Verification():
            return _verify(repository, job, call)
        case BlobRead() | PointRead():
            return _range(repository, job, call)
        case TrialRestore():
            return _drill(repository, job, call)
        case Consolidation():
            return consolidate(repository, repository.record_of(job.backup_id), dry_run=job.dry_run)
        case Replication():
            return _replicate(setup, repository, job, call)
    assert_never(job)


def _back_up(setup: Setup, repository: Repository, job: BackupTask, call: Call) -> MadePoint:
    progress, notify = Teller(call).callbacks()
    return carry_out(repository, _engine(setup), job, progress, notify)


def _verify(repository: Repository, job: Verification, call: Call) -> Verified:
    progress, notify = Teller(call).callbacks()
    return verify(
        repository,
        Scope(job.vm_id, job.point(repository), share=job.share, spread=job.spread),
        job.level,
        sample_percent=job.sample_percent,
        workers=job.workers,
        progress=progress,
        notify=notify,
    )


def _range(repository: Repository, job: BlobRead | PointRead, call: Call) -> RangeChecked | RangeCopied:
    progress, _ = Teller(call).callbacks()
    if isinstance(job, PointRead):
        return copy_range(
            repository,
            repository.record_of(job.backup_id),
            job.disk_id,
            job.part,
            job.file,
            workers=job.workers,
            progress=progress,
        )
    return check_range(
        repository,
        job.backup_id,
        job.stream_id,
        job.place,
        sample_percent=job.sample_percent,
        workers=job.workers,
        progress=progress,
    )


def _drill(repository: Repository, job: TrialRestore, call: Call) -> Drill:
    progress, _ = Teller(call).callbacks()
    backup = repository.record_of(job.backup_id)
    return drill(
        repository,
        backup,
        backup.streams,
        folder=job.folder,
        digests_only=job.digests_only,
        workers=job.workers,
        progress=progress,
    )


def _replicate(setup: Setup, repository: Repository, job: Replication, call: Call) -> Replicated:
    progress, notify = Teller(call).callbacks()
    target = setup.reachable(job.target)
    return replicate(repository, target, job.options, ReplicateWatch(notify, progress))


_engines: dict[EngineConfig, Engine] = {}
_lock = threading.Lock()


def _engine(setup: Setup) -> Engine:
    """Return the engine of this process; the first task logs in. Raises UsageError, EngineError."""
    if setup.engine is None:
        raise UsageError(
            f"{setup.name} has no engine",
            "Give 'pitr worker' the engine's settings, as 'pitr backup' has them.",
        )
    with _lock:
        if setup.engine not in _engines:
            _engines[setup.engine] = Engine(setup.engine)
        return _engines[setup.engine]


def close_engines() -> None:
    """Log out. Never raises."""
    with _lock:
        for engine in _engines.values():
            engine.close()
        _engines.clear()
