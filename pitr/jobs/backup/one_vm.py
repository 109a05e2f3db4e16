# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up one VM with its disks: one run makes one point."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pitr.copier import copy_all
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink, Source
from pitr.errors import CheckpointGone, EngineError, UntrackedChange
from pitr.jobs.backup.chain_present import check_present
from pitr.jobs.backup.disks import choose_disks
from pitr.jobs.backup.new_stream import new_stream
from pitr.jobs.backup.pipe_out import PipingOut
from pitr.jobs.backup.unchanged import DEFAULT_PERCENT, check_unchanged, trust_again
from pitr.jobs.upkeep.leftovers import end_of_vm, noted, remove_old_checkpoints, warn_of_snapshots
from pitr.model import Backup, Kind, LeftOut, Mode, Record, Stream, VMName
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    VM,
    BackupRequest,
    Disk,
    Engine,
    RunningBackup,
    StartedBackup,
    find_vm,
    get_configuration,
    list_checkpoints,
    start_backup,
    start_download,
    vm_disks,
)
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
from pitr.ovirt.imageio.keep_alive import KeptAliveSource, kept_alive
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, notes
from pitr.repository.blob import DEFAULT_LEVEL
from pitr.repository.damage import StoredDamage
from pitr.repository.stream_sink import NewStream, blob_meta
from pitr.text import named, printable
from pitr.version import __version__

__all__ = ["BackupOptions", "BackupPlan", "Notify", "back_up", "plan_backup"]

#: Wait this long for a locked VM or disk: the lock is often short.
_BUSY_S = 10.0
#: After an incremental backup fails to start, the engine keeps the VM locked for some time.
_BUSY_AFTER_FAILURE_S = 120.0


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to back up. Without `full` and `incremental`, the backup is incremental if possible.

    `disks`: names or ids of the disks to back up; all if empty. `exclude_disks`: disks to leave out. `fallback`: take
    a full if no requested incremental is possible; otherwise fail. `check_unchanged`: compare this percentage of the
    unchanged ranges with the stored data.
    """

    full: bool = False
    incremental: bool = False
    fallback: bool = True
    disks: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()
    require_consistency: bool = False
    level: int = DEFAULT_LEVEL
    workers: int = DEFAULT_WORKERS
    piping_out: PipingOut | None = None
    check_unchanged: float = DEFAULT_PERCENT


@dataclass(frozen=True, slots=True)
class _Base:
    """The backup that an incremental is based on; without a parent, `reason` says why the backup is a full."""

    parent: Backup | None
    reason: str | None


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
    with repository.lock_vm(VMName(vm.id, vm.name)):
        return _BackupRun(repository, engine, vm, options, progress, notify).run()


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """The plan of a backup: it reads `disks`, incrementally if there is a checkpoint to start from."""

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
    run = _BackupRun(repository, engine, vm, options, None, lambda line: None)
    disks, left_out = run.choose_disks()
    base = run.choose_base()
    return BackupPlan(
        vm_id=vm.id,
        vm_name=vm.name,
        kind=Kind.INCREMENTAL.value if base.parent else Kind.FULL.value,
        reason=base.reason,
        from_checkpoint_id=base.parent.checkpoint_id if base.parent else None,
        disks=tuple(disks),
        left_out=tuple(left_out),
    )


class _BackupRun:
    def __init__(
        self,
        repository: Repository,
        engine: Engine,
        vm: VM,
        options: BackupOptions,
        progress: Progress | None,
        notify: Notify,
    ) -> None:
        self.repository = repository
        self.engine = engine
        self.vm = vm
        self.options = options
        self.progress = progress
        self.notify = notify
        self.backup_id = str(uuid.uuid4())
        self.with_chain: frozenset[str] = frozenset()

    def run(self) -> Backup:
        started_at = time.monotonic()
        for leftover in end_of_vm(self.repository, self.engine, self.vm):
            if leftover.is_open:
                self.notify(
                    f"ended backup {leftover.backup_id}, which an earlier run had left open on the engine"
                )
        disks, left_out = self.choose_disks()
        if self.options.piping_out is not None:
            self.options.piping_out.check(self.vm.name, len(disks))
        for disk in left_out:
            self.notify(f"disk {named(disk.name, disk.disk_id)} is left out: {disk.reason}")
        base = self.choose_base()
        self.with_chain = self._disks_with_chain()
        with ExitStack() as cleanup:
            with self._running(disks, base) as (running, base):
                started = running.started
                if self.options.require_consistency and started.mode == "hybrid":
                    self.notify(
                        f"the engine takes backups of VM {printable(self.vm.name)} from snapshots and ignores "
                        "--require-consistency: the consistency of this point is unknown"
                    )
                streams = self._copy(started, disks, base, cleanup)
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
            self.repository.commit(Record(backup, configuration))
            cleanup.pop_all()
        trust_again(self.repository, backup)
        if started.mode == "hybrid":
            warn_of_snapshots(self.engine, self.vm, self.notify)
        remove_old_checkpoints(self.repository, self.engine, self.vm, backup, self.notify)
        return backup

    # Disks and base

    def choose_disks(self) -> tuple[list[Disk], list[LeftOut]]:
        attached = vm_disks(self.engine, self.vm.id)
        return choose_disks(attached, self.vm.name, self.options.disks, self.options.exclude_disks)

    def choose_base(self) -> _Base:
        """Return the base of an incremental, or the reason for a full."""
        if self.options.full:
            return _Base(None, "requested")
        if any(notes.distrusted(self.repository.store, self.vm.id)):
            return self.no_base("the last incremental found changes that the engine had missed")
        return self._newest_base()

    def _newest_base(self) -> _Base:
        """Find the newest backup whose checkpoint the engine still has and whose chain is complete."""
        points = self.repository.catalog.points(self.vm.id)
        ours = {backup.checkpoint_id: backup for backup in points if backup.checkpoint_id is not None}
        if not ours:
            return self.no_base(
                "no backup of this VM has a checkpoint (the engine makes none for raw disks)"
                if points
                else "the repository holds no backup of this VM yet"
            )
        on_engine = list_checkpoints(self.engine, self.vm.id)
        # The engine lists its checkpoints from the root to the leaf. Follow this order, not the clock.
        for checkpoint in reversed(on_engine):
            backup = ours.get(checkpoint.id)
            if not checkpoint.valid:
                # The changes since a checkpoint need all later checkpoints.
                return self.no_base(f"the checkpoint {checkpoint.id} is invalid on the engine")
            if backup is None:
                continue
            try:
                check_present(self.repository, backup)
            except StoredDamage as error:
                return self.no_base(f"the chain of the last backup is damaged ({error.message})")
            return _Base(backup, None)
        return self.no_base(f"the engine no longer has the checkpoint {next(iter(ours))} of the last backup")

    def no_base(self, reason: str) -> _Base:
        if self.options.incremental and not self.options.fallback:
            raise CheckpointGone(
                f"no incremental backup of VM {printable(self.vm.name)} is possible: {reason}",
                "Remove --no-fallback to take a full backup.",
            )
        return _Base(None, reason)

    def _disks_with_chain(self) -> frozenset[str]:
        """Return the ids of the disks that earlier backups hold incrementally; a full of one of them is unexpected."""
        return frozenset(
            stream.disk_id
            for backup in self.repository.catalog.points(self.vm.id)
            for stream in backup.streams
            if stream.settings.format == "cow"
        )

    @contextmanager
    def _running(self, disks: Sequence[Disk], base: _Base) -> Iterator[tuple[RunningBackup, _Base]]:
        """Keep a backup open on the engine; start a full if the engine refuses the checkpoint."""
        with ExitStack() as stack:
            running = None
            busy_wait_s = _BUSY_S
            if base.parent is not None:
                try:
                    running = stack.enter_context(self._on_engine(disks, base, busy_wait_s))
                except CheckpointGone as error:
                    base = self.no_base(error.message)
                    busy_wait_s = _BUSY_AFTER_FAILURE_S
                    # The engine may remember the id of the failed backup for some time.
                    self.backup_id = str(uuid.uuid4())
            if running is None:
                if not self.options.full:
                    self.notify(f"taking a full backup of VM {printable(self.vm.name)}: {base.reason}")
                running = stack.enter_context(self._on_engine(disks, base, busy_wait_s))
            yield running, base

    @contextmanager
    def _on_engine(self, disks: Sequence[Disk], base: _Base, busy_wait_s: float) -> Iterator[RunningBackup]:
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

    def _copy(
        self, started: StartedBackup, disks: Sequence[Disk], base: _Base, cleanup: ExitStack
    ) -> list[Stream]:
        by_id = {disk.id: disk for disk in disks}
        unexpected = [disk.disk_id for disk in started.disks if disk.disk_id not in by_id]
        missing = by_id.keys() - {disk.disk_id for disk in started.disks}
        if unexpected or missing:
            raise EngineError(
                "the engine's backup does not hold the requested disks "
                f"(missing: {', '.join(sorted(missing)) or 'none'}; unexpected: {', '.join(unexpected) or 'none'})"
            )
        copies = [
            _DiskBackup(self, started, by_id[disk.disk_id], disk.incremental, base, cleanup)
            for disk in started.disks
        ]
        copy_all(copies, workers=self.options.workers, progress=self.progress)
        order = [disk.id for disk in disks]
        streams = [copy.stream for copy in copies if copy.stream is not None]
        return sorted(streams, key=lambda stream: order.index(stream.disk_id))

    def _point(
        self,
        started: StartedBackup,
        base: _Base,
        streams: Sequence[Stream],
        left_out: Sequence[LeftOut],
        started_at: float,
    ) -> Backup:
        incremental = any(stream.kind is Kind.INCREMENTAL for stream in streams)
        reason = None
        if not incremental:
            reason = base.reason or "; ".join(sorted({stream.reason for stream in streams if stream.reason}))
        return Backup(
            backup_id=started.id,
            vm=VMName(self.vm.id, self.vm.name),
            kind=Kind.INCREMENTAL if incremental else Kind.FULL,
            reason=reason,
            point=started.hi,
            lo=started.lo,
            parent_id=base.parent.backup_id if base.parent and incremental else None,
            checkpoint_id=started.checkpoint_id,
            from_checkpoint_id=started.from_checkpoint_id,
            mode=Mode(started.mode),
            # The engine does not report whether it froze the guest's file systems. A live backup that requires
            # consistency fails if it cannot; a hybrid one ignores the requirement.
            consistency="frozen"
            if self.options.require_consistency and started.mode == "live"
            else "unknown",
            streams=tuple(streams),
            left_out=tuple(sorted(left_out, key=lambda disk: disk.disk_id)),
            duration_ms=round((time.monotonic() - started_at) * 1000),
            pitr_version=__version__,
        )


class _DiskBackup:
    """The backup of one disk: from a transfer to a new stream."""

    def __init__(
        self,
        run: _BackupRun,
        started: StartedBackup,
        disk: Disk,
        incremental: bool,
        base: _Base,
        cleanup: ExitStack,
    ) -> None:
        self._run = run
        self._started = started
        self._disk = disk
        self._incremental = incremental
        self._base = base
        self._cleanup = cleanup
        self.stream: Stream | None = None

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        run, disk = self._run, self._disk
        with start_download(run.engine, disk.id, backup_id=self._started.id) as transfer:
            address = imageio_address(run.engine, transfer)
            new, source = self._source(address)
            started, vm = self._started, VMName(run.vm.id, run.vm.name)
            data_bytes = source.extents().data_bytes
            meta = blob_meta(new, vm, source.size, data_bytes, started.hi, started.checkpoint_id)
            if run.options.piping_out is not None:
                with self._piping_out(run.options.piping_out, address, new, source, meta) as opened:
                    yield opened
                return
            with run.repository.new_stream(new, source.size, meta, level=run.options.level) as sink:
                yield source, sink
            self.stream = sink.stream
            self._cleanup.callback(run.repository.drop_stream, disk.id, new.stream_id)

    @contextmanager
    def _piping_out(
        self,
        piping_out: PipingOut,
        address: ImageioAddress,
        new: NewStream,
        source: ImageioSource,
        meta: dict[str, object],
    ) -> Iterator[tuple[Source, Sink]]:
        """Copy to an external output, at the speed of its reader."""
        run = self._run
        output = piping_out.open(new, run.vm.id)
        # Also abort the output when the run fails after its last byte.
        self._cleanup.callback(output.abort)
        with (
            kept_alive(address),
            run.repository.new_stream(
                new, source.size, meta, level=run.options.level, external=output
            ) as sink,
        ):
            yield KeptAliveSource(source), sink
        self.stream = sink.stream
        self._cleanup.callback(run.repository.drop_stream, new.disk_id, new.stream_id)

    def _source(self, address: ImageioAddress) -> tuple[NewStream, ImageioSource]:
        parent = self._base.parent.stream_of(self._disk.id) if self._base.parent else None
        reason = self._base.reason
        if self._incremental and parent is not None:
            source = ImageioSource(address, "dirty", engine_size=self._disk.size)
            try:
                source.extents()
            except CheckpointGone as error:
                reason = self._run.no_base(error.message).reason
            else:
                self._check_unchanged(self._base.parent, parent, source)
                new = new_stream(self._started.id, self._disk, Kind.INCREMENTAL, None, parent.stream_id)
                return new, source
        elif self._incremental:
            reason = "the last backup does not hold the disk"
        elif self._base.parent is not None:
            reason = "the disk is raw"
            if self._disk.format != "raw":
                reason = "the checkpoint does not hold the disk"
                if self._disk.id in self._run.with_chain:
                    reason = self._run.no_base(
                        f"{reason}: disk {printable(self._disk.name)} was detached since, or left out of a backup"
                    ).reason
        # A transfer of an incremental backup can also read the whole disk.
        new = new_stream(self._started.id, self._disk, Kind.FULL, reason, None)
        return new, ImageioSource(address, "zero", engine_size=self._disk.size)

    def _check_unchanged(self, parent: Backup | None, stream: Stream, source: ImageioSource) -> None:
        run = self._run
        if parent is None or run.options.check_unchanged <= 0:
            return
        try:
            check_unchanged(run.repository, parent, stream, source, run.options.check_unchanged)
        except UntrackedChange:
            notes.distrust(run.repository.store, run.vm.id, self._disk.id)
            raise
