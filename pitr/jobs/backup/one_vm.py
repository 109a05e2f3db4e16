# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up one VM with its disks: one run makes one point."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from pitr import times
from pitr.copier import copy_all
from pitr.errors import BusyError, CheckpointGone, EngineError, IncrementalStopped
from pitr.jobs.backup.base import Base, Bases
from pitr.jobs.backup.changes import with_events
from pitr.jobs.backup.clocks import warn_of_clocks
from pitr.jobs.backup.disks import choose_disks
from pitr.jobs.backup.one_disk import DiskBackup, DiskRun
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.backup.siblings import Search, Siblings
from pitr.jobs.backup.task_ids import committed, new_backup_id
from pitr.jobs.backup.unchanged import trust_again
from pitr.jobs.lineage import disk_ids_of
from pitr.jobs.upkeep.leftovers import end_of_vm, noted, remove_old_checkpoints, warn_of_snapshots
from pitr.model import Backup, Kind, LeftOut, Mode, Record, Stream, VMName
from pitr.ovirt.engine import (
    VM,
    BackupRequest,
    Disk,
    Engine,
    RunningBackup,
    StartedBackup,
    find_vm,
    get_configuration,
    reported_problems,
    start_backup,
    vm_disks,
)
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, rollbacks
from pitr.repository.damage import StoredDamage
from pitr.repository.fewer_requests import trusting_copies
from pitr.repository.pairs import SeenStates
from pitr.text import named, printable
from pitr.version import __version__

#: Wait this long for a locked VM or disk: the lock is often short. A run of pitr backup tries it again later.
_BUSY_S = 10.0
#: Each further attempt leaves out what stopped the one before.
_MOST_ATTEMPTS = 5
#: After an incremental backup fails to start, the engine keeps the VM locked for some time.
_BUSY_AFTER_FAILURE_S = 120.0


_log = logging.getLogger(__name__)


def back_up(
    repository: Repository,
    engine: Engine,
    name: str,
    options: BackupOptions,
    *,
    progress: Progress | None = None,
    notify: Notify,
) -> Backup:
    """Back up the VM with this name or id, commit the new point and return it.

    On every path, no backup stays open on the engine. Without a commit, the repository stays unchanged.
    """
    vm = find_vm(engine, name)
    with repository.lock_vm(VMName(vm.id, vm.name)), trusting_copies(repository):
        return _BackupRun(repository, engine, vm, options, progress, notify).run()


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """The plan of a backup of `disks`. Without a checkpoint to start from, an incremental compares them."""

    vm_id: str
    vm_name: str
    kind: str
    reason: str | None
    from_checkpoint_id: str | None
    disks: tuple[Disk, ...]
    left_out: tuple[LeftOut, ...]


def plan_backup(repository: Repository, engine: Engine, name: str, options: BackupOptions) -> BackupPlan:
    """Return what `back_up` would do, without changing the repository or the engine."""
    vm = find_vm(engine, name)
    run = _BackupRun(repository, engine, vm, options, None, None)
    disks, left_out = run.choose_disks()
    base = run.bases.choose(disks)
    return BackupPlan(
        vm_id=vm.id,
        vm_name=vm.name,
        kind=Kind.INCREMENTAL.value if base.stored else Kind.FULL.value,
        reason=base.reason or base.full_disks(disks),
        from_checkpoint_id=base.parent.checkpoint_id if base.parent else None,
        disks=tuple(disks),
        left_out=tuple(left_out),
    )


def _ignore(line: str) -> None:
    pass


class _BackupRun:
    def __init__(
        self,
        repository: Repository,
        engine: Engine,
        vm: VM,
        options: BackupOptions,
        progress: Progress | None,
        notify: Notify | None,
    ) -> None:
        """`notify` is None for a plan, which changes nothing."""
        self.repository = repository
        self.engine = engine
        self.vm = vm
        self.options = options
        self.progress = progress
        self.notify = notify or _ignore
        self.backup_id = new_backup_id(self.options.task_id)
        is_local = repository.path == repository.location
        self.states = None if is_local else SeenStates(repository.store)
        self.bases = Bases(repository, engine, vm, options, notify, self.states or repository.store)
        #: When the current backup began, by the engine's clock.
        self.began: datetime | None = None
        #: How much the engine's clock was ahead of this machine's when the backup was ready.
        self.skew = timedelta()

    def run(self) -> Backup:
        started_at = time.monotonic()
        for leftover in end_of_vm(self.repository, self.engine, self.vm, states=self.states):
            self._forget_states()
            if leftover.is_open:
                self.notify(
                    f"ended backup {leftover.backup_id}, which an earlier run had left open on the engine"
                )
        made = committed(self.repository, self.vm.id, self.options.task_id)
        if made is not None:
            self.notify(f"an earlier run of this task has made the point of VM {printable(self.vm.name)}")
            return made
        disks, left_out = self.choose_disks()
        self._check_no_rollback(disks)
        if self.options.piping_out is not None:
            self.options.piping_out.check(self.vm.name, len(disks))
        for disk in left_out:
            self.notify(f"disk {named(disk.name, disk.disk_id)} is left out: {disk.reason}")
        base = self.bases.choose(disks)
        backup = self._until_it_succeeds(disks, left_out, base, started_at)
        trust_again(self.repository, backup, self.states or self.repository.store)
        warn_of_clocks(self.repository, backup, self.skew, self.notify)
        if backup.mode is Mode.HYBRID:
            warn_of_snapshots(self.engine, self.vm, self.notify)
        states = self.states or self.repository.store
        remove_old_checkpoints(self.repository, self.engine, self.vm, backup, states, self.notify)
        return backup

    def _check_no_rollback(self, disks: Sequence[Disk]) -> None:
        """Raise BusyError if a rollback in place has not ended: a disk can hold a part of two states."""
        begun = rollbacks.of_vm(self.states or self.repository.store, self.vm.id)
        unfinished = {each.disk_id for each in begun}
        names = [printable(disk.name) for disk in disks if disk.id in unfinished]
        if names:
            name = printable(self.vm.name)
            raise BusyError(
                f"a rollback of VM {name} is unfinished: {', '.join(names)} may hold a part of two states",
                f"End it with 'pitr rollback --continue {name}', then back up.",
            )

    def _forget_states(self) -> None:
        """Ask for the VM's states again: this run has changed them."""
        if self.states is not None:
            self.states.forget()

    def _until_it_succeeds(
        self, disks: Sequence[Disk], left_out: Sequence[LeftOut], base: Base, started_at: float
    ) -> Backup:
        """Run the backup, and again without what made it impossible: the engine's changes, or damaged stored data."""
        busy_s = _BUSY_S
        for _ in range(_MOST_ATTEMPTS):
            try:
                return self._attempt(disks, left_out, base, started_at, busy_s)
            except IncrementalStopped as stopped:
                self._forget_states()
                base = self._whole_after(stopped, disks)
            except StoredDamage as error:
                self._forget_states()
                base = self._after_damage(error, disks)
            busy_s = _BUSY_AFTER_FAILURE_S
        return self._attempt(disks, left_out, Base(None, base.reason), started_at, busy_s)

    def choose_disks(self) -> tuple[list[Disk], list[LeftOut]]:
        attached = vm_disks(self.engine, self.vm.id)
        return choose_disks(
            attached,
            self.vm.name,
            self.options.disks,
            self.options.exclude_disks,
            lambda name: disk_ids_of(self.repository, self.vm.id, name),
        )

    def _attempt(
        self,
        disks: Sequence[Disk],
        left_out: Sequence[LeftOut],
        base: Base,
        started_at: float,
        busy_wait_s: float,
    ) -> Backup:
        """Run one backup on the engine, commit its point and return it.

        Raises IncrementalStopped if it was incremental and another backup can take its place, and StoredDamage if a
        comparison met damage.
        """
        if base.compared is not None and any(disk.format != "raw" for disk in disks):
            self.notify(
                f"reading the disks of VM {printable(self.vm.name)} whole and comparing them with the last backup: "
                f"{base.reason}"
            )
        elif base.stored is None and not self.options.full:
            self.notify(f"taking a full backup of VM {printable(self.vm.name)}: {base.reason}")
        with ExitStack() as held, ExitStack() as cleanup:
            siblings = self._siblings(disks, held)
            with self._running(disks, base, busy_wait_s) as running:
                started = running.started
                if self.options.require_consistency and started.mode is Mode.HYBRID:
                    self.notify(
                        f"the engine takes backups of VM {printable(self.vm.name)} from snapshots and ignores "
                        "--require-consistency: the consistency of this point is unknown"
                    )
                streams = self._copy(started, disks, base, cleanup, siblings)
                configuration = get_configuration(self.engine, self.vm.id)
                if configuration is None:
                    self.notify(
                        f"the engine returned no configuration of VM {printable(self.vm.name)}: this point has none"
                    )
                running.check_still_ready()
            if not running.succeeded:
                self.notify(
                    f"the engine reports that backup {started.id} failed after pitr read all data: the point is "
                    "complete; see the engine's events"
                )
            backup = self._point(started, base, streams, left_out, started_at)
            backup = self.repository.commit(Record(backup, configuration))
            _log.info("stored the point of %s, backup %s", times.to_text(backup.point), backup.backup_id)
            cleanup.pop_all()
        return backup

    def _whole_after(self, stopped: IncrementalStopped, disks: Sequence[Disk]) -> Base:
        """Return the base of the backup that takes the place of a stopped incremental. Raises CheckpointGone."""
        events = reported_problems(self.engine, self.backup_id, disk_name=stopped.disk_name, since=self.began)
        # The engine may remember the id of the stopped backup for some time.
        self.backup_id = new_backup_id(self.options.task_id)
        return self.bases.no_base(with_events(stopped.message, events), disks)

    def _after_damage(self, error: StoredDamage, disks: Sequence[Disk]) -> Base:
        """Return the base of the backup after a comparison met damage, which it stores. Raises StoredDamage."""
        reason = self.bases.damage_found(error)
        piping_out = self.options.piping_out
        if piping_out is not None and piping_out.output is not None:
            # The output has a part of the stream already, so nothing can take its place.
            raise error
        self.notify(f"VM {printable(self.vm.name)}: the comparison with stored data met damage: {reason}")
        self.backup_id = new_backup_id(self.options.task_id)
        return self.bases.choose(disks)

    @contextmanager
    def _running(self, disks: Sequence[Disk], base: Base, busy_wait_s: float) -> Iterator[RunningBackup]:
        """Keep a backup open on the engine. Raises IncrementalStopped if the engine refuses the checkpoint."""
        with ExitStack() as stack:
            try:
                running = stack.enter_context(self._on_engine(disks, base, busy_wait_s))
            except CheckpointGone as error:
                raise IncrementalStopped(error.message, error.advice) from error
            self.began = running.started.creation_date
            self.skew = running.started.ready_date - times.now()
            if base.damaged:
                self.notify(f"VM {printable(self.vm.name)}, {base.full_disks(disks)}")
            yield running

    @contextmanager
    def _on_engine(self, disks: Sequence[Disk], base: Base, busy_wait_s: float) -> Iterator[RunningBackup]:
        """Keep one backup open on the engine. The repository notes its id while it may be open."""
        running = start_backup(
            self.engine,
            self.vm,
            BackupRequest(
                tuple(disk.id for disk in disks),
                self.backup_id,
                from_checkpoint_id=base.parent.checkpoint_id if base.parent else None,
                description=f"pitr backup of {self.vm.name}",
                require_consistency=self.options.require_consistency,
            ),
            busy_wait_s=busy_wait_s,
        )
        with noted(self.repository, self.vm.id, running):
            yield running

    # Data

    def _siblings(self, disks: Sequence[Disk], held: ExitStack) -> Siblings | None:
        """Return the disks of other VMs whose frames this backup can use, protected until `held` is closed."""
        if self.options.piping_out is not None:
            return None
        search = Search(self.repository, self.engine, self.vm, self.options.like, self.notify, held)
        return search.siblings_for(disks, full=self.options.full)

    def _copy(
        self,
        started: StartedBackup,
        disks: Sequence[Disk],
        base: Base,
        cleanup: ExitStack,
        siblings: Siblings | None,
    ) -> list[Stream]:
        by_id = {disk.id: disk for disk in disks}
        unexpected = [disk.disk_id for disk in started.disks if disk.disk_id not in by_id]
        missing = by_id.keys() - {disk.disk_id for disk in started.disks}
        if unexpected or missing:
            raise EngineError(
                "the engine's backup does not hold the requested disks "
                f"(missing: {', '.join(sorted(missing)) or 'none'}; unexpected: {', '.join(unexpected) or 'none'})"
            )
        run = DiskRun(self.bases, base, started, self.bases.disks_with_chain(), cleanup, siblings)
        copies = [DiskBackup(run, by_id[disk.disk_id], disk.incremental) for disk in started.disks]
        copy_all(copies, workers=self.options.workers, progress=self.progress)
        order = [disk.id for disk in disks]
        streams = [copy.stream for copy in copies if copy.stream is not None]
        return sorted(streams, key=lambda stream: order.index(stream.disk_id))

    def _point(
        self,
        started: StartedBackup,
        base: Base,
        streams: Sequence[Stream],
        left_out: Sequence[LeftOut],
        started_at: float,
    ) -> Backup:
        incremental = any(stream.kind is Kind.INCREMENTAL for stream in streams)
        reason = None
        if not any(stream.changes == "tracked" for stream in streams):
            reason = base.reason or "; ".join(sorted({stream.reason for stream in streams if stream.reason}))
        return Backup(
            backup_id=started.id,
            vm=VMName(self.vm.id, self.vm.name),
            kind=Kind.INCREMENTAL if incremental else Kind.FULL,
            reason=reason,
            point=started.hi,
            lo=started.lo,
            # The id of the backup that a synthetic one stands for: the synthetic one may be replaced by another.
            parent_id=base.stored.known_as if base.stored and incremental else None,
            checkpoint_id=started.checkpoint_id,
            from_checkpoint_id=started.from_checkpoint_id,
            mode=started.mode,
            # The engine does not report whether it froze the guest's file systems. A live backup that requires
            # consistency fails if it cannot; a hybrid one ignores the requirement.
            consistency="frozen"
            if self.options.require_consistency and started.mode is Mode.LIVE
            else "unknown",
            streams=tuple(streams),
            left_out=tuple(sorted(left_out, key=lambda disk: disk.disk_id)),
            duration_ms=round((time.monotonic() - started_at) * 1000),
            pitr_version=__version__,
        )
