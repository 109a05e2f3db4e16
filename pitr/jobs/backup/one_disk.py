# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up one disk of a run: copy it from a transfer to a new stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.comparing import ComparedPoint, ComparingSink, open_compared
from pitr.endpoints.points.sharing import SharedDisk, sharing
from pitr.errors import CheckpointGone, ImageioError, NoFittingIdentity, TransferStopped, UntrackedChange
from pitr.jobs.backup.base import Base, Bases
from pitr.jobs.backup.changes import WatchedSource, start_stopped, unlisted, with_events
from pitr.jobs.backup.new_stream import new_stream
from pitr.jobs.backup.pipe_out import PipingOut
from pitr.jobs.backup.siblings import Siblings
from pitr.jobs.backup.unchanged import check_unchanged
from pitr.model import Backup, Stream, VMName
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import Disk, StartedBackup, Transfer, reported_problems, start_download
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
from pitr.ovirt.imageio.keep_alive import KeptAliveSource, kept_alive
from pitr.repository import notes
from pitr.repository.damage import StoredDamage
from pitr.repository.stream_sink import NewStream, StreamSink, blob_meta
from pitr.system.closing import Closes
from pitr.text import printable

_NOT_HELD = "the last backup does not hold the disk"
_SEALED = "without an identity, the disk cannot be compared with the last point"


@dataclass(frozen=True, slots=True)
class DiskRun:
    """What the disks of one run share. `cleanup` removes their streams if the run fails."""

    bases: Bases
    base: Base
    started: StartedBackup
    with_chain: frozenset[str]
    cleanup: ExitStack
    siblings: Siblings | None


@dataclass(frozen=True, slots=True)
class _Opened(Closes):
    """A new stream with its source, and the stored point to compare it with, or siblings' disks to share frames of."""

    new: NewStream
    source: Source
    point: ComparedPoint | None = None
    shared: tuple[SharedDisk, ...] = ()

    def before(self, sink: StreamSink) -> Sink:
        """Return the sink for the source: `sink` itself, or one that passes on what is not stored yet."""
        if self.point is not None:
            return ComparingSink(sink, self.point)
        return sharing(sink, self.shared)

    def close(self) -> None:
        if self.point is not None:
            self.point.close()
        for shared in self.shared:
            shared.close()


class DiskBackup:
    """The backup of one disk: from a transfer to a new stream."""

    def __init__(self, run: DiskRun, disk: Disk, incremental: bool) -> None:
        self._run = run
        self._repository = run.bases.repository
        self._engine = run.bases.engine
        self._vm = run.bases.vm
        self._options = run.bases.options
        self._disk = disk
        self._incremental = incremental
        self.stream: Stream | None = None

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        """Start the transfer, and return its data as a source and the new stream as a sink."""
        disk = self._disk
        with self._transfer() as transfer:
            address = imageio_address(self._engine, transfer)
            opened = self._source(transfer, address)
            new, source = opened.new, opened.source
            started, vm = self._run.started, VMName(self._vm.id, self._vm.name)
            data_bytes = source.extents().data_bytes
            stored = self._run.base.stored
            meta = blob_meta(
                new,
                vm,
                source.size,
                data_bytes,
                started.hi,
                started.checkpoint_id,
                parent_id=stored.known_as
                if stored is not None and new.parent_stream_id is not None
                else None,
            )
            if self._options.piping_out is not None:
                with self._piping_out(self._options.piping_out, address, opened, meta) as copied:
                    yield copied
                return
            with (
                opened,
                self._repository.new_stream(
                    new,
                    source.size,
                    meta,
                    level=self._options.level,
                    of_parts=bool(opened.shared),
                ) as sink,
            ):
                yield source, opened.before(sink)
            self.stream = sink.stream
            self._run.cleanup.callback(self._repository.drop_stream, disk.id, new.stream_id)

    @contextmanager
    def _transfer(self) -> Iterator[Transfer]:
        """Keep the disk's transfer open. Raises IncrementalStopped if the engine cannot start it for its changes."""
        download = start_download(self._engine, self._disk.id, backup_id=self._run.started.id)
        with ExitStack() as stack:
            try:
                transfer = stack.enter_context(download)
            except TransferStopped as error:
                if self._incremental:
                    raise start_stopped(self._disk, error) from error
                raise
            yield transfer

    @contextmanager
    def _piping_out(
        self,
        piping_out: PipingOut,
        address: ImageioAddress,
        opened: _Opened,
        meta: dict[str, object],
    ) -> Iterator[tuple[Source, Sink]]:
        """Copy to an external output, at the speed of its reader."""
        new, source = opened.new, opened.source
        output = piping_out.open(new, self._vm.id)
        # Also abort the output when the run fails after its last byte.
        self._run.cleanup.callback(output.abort)
        with (
            kept_alive(address),
            opened,
            self._repository.new_stream(
                new, source.size, meta, level=self._options.level, external=output
            ) as sink,
        ):
            yield KeptAliveSource(source), opened.before(sink)
        self.stream = sink.stream
        self._run.cleanup.callback(self._repository.drop_stream, new.disk_id, new.stream_id)

    def _source(self, transfer: Transfer, address: ImageioAddress) -> _Opened:
        """Return the changes since the parent if the engine has them; else the whole disk, to compare it."""
        base = self._run.base
        whole: ImageioSource | None = None
        reason: str | None
        parent = base.parent.stream_of(self._disk.id) if base.parent else None
        damaged = base.damaged.get(self._disk.id)
        if self._incremental and parent is not None and damaged is None:
            source = ImageioSource(address, "dirty", engine_size=self._disk.size)
            try:
                source.extents()
            except CheckpointGone as error:
                reason = self._reason_for_whole(f"disk {printable(self._disk.name)}: {error.message}")
            except ImageioError as error:
                whole, why = unlisted(self._disk, transfer, address, error)
                reason = self._reason_for_whole(why)
            else:
                watched = self._watched(source, transfer)
                damaged = self._check_unchanged(base.parent, parent, watched)
                if damaged is None:
                    new = new_stream(
                        self._run.started.id,
                        self._disk,
                        None,
                        parent_stream_id=parent.stream_id,
                        changes="tracked",
                    )
                    return _Opened(new, watched)
                reason = self._run.bases.untracked(damaged)
        else:
            reason = self._why_untracked()
        # A transfer of an incremental backup can also read the whole disk.
        whole = whole or ImageioSource(address, "zero", engine_size=self._disk.size)
        return self._compared(whole, reason, damaged)

    def _why_untracked(self) -> str | None:
        """Return why the engine tells no changes of the disk."""
        base = self._run.base
        if self._disk.format == "raw" and base.stored is not None:
            return "the disk is raw"
        if base.parent is None:
            return base.reason
        if self._incremental:
            # Without a stream, or with a damaged one.
            return base.damaged.get(self._disk.id, _NOT_HELD)
        reason = "the checkpoint does not hold the disk"
        if self._disk.id in self._run.with_chain:
            return self._run.bases.untracked(
                f"{reason}: disk {printable(self._disk.name)} was detached since, or left out of a backup"
            )
        return reason

    def _compared(self, whole: ImageioSource, reason: str | None, damaged: str | None) -> _Opened:
        """Return the whole disk with the stored point to compare it with; without one, for a full."""
        base = self._run.base
        stream = base.stored.stream_of(self._disk.id) if base.stored is not None else None
        if damaged is None and stream is not None and base.stored is not None and not self._repository.opens:
            reason = f"{reason}; {_SEALED}"
        elif damaged is None and stream is not None and base.stored is not None:
            try:
                point = open_compared(self._repository, base.stored, stream)
            except StoredDamage as error:
                damaged = self._run.bases.damage_found(error)
            except NoFittingIdentity:
                # It is sealed to recipients of an earlier epoch.
                reason = f"{reason}; {_SEALED}"
            else:
                new = new_stream(
                    self._run.started.id,
                    self._disk,
                    reason,
                    parent_stream_id=stream.stream_id,
                    changes="compared",
                )
                return _Opened(new, whole, point)
        elif damaged is None and base.compared is not None:
            reason = f"{reason}; {_NOT_HELD}"
        new = new_stream(self._run.started.id, self._disk, damaged or reason)
        return _Opened(new, whole, shared=self._shared(whole))

    def _shared(self, whole: Source) -> tuple[SharedDisk, ...]:
        """Open the siblings' disks whose frames a full can use. Its blob in a pipe must be complete."""
        siblings = self._run.siblings
        if siblings is None or self._options.piping_out is not None:
            return ()
        return siblings.open_best(self._disk, whole)

    def _watched(self, source: ImageioSource, transfer: Transfer) -> Source:
        piping_out = self._options.piping_out
        if piping_out is not None and piping_out.output is not None:
            # The output has a part of the stream already, so nothing can take its place.
            return source
        return WatchedSource(source, self._disk, transfer)

    def _reason_for_whole(self, why: str) -> str:
        """Return the reason for reading the whole disk, with the engine's events. Raises CheckpointGone."""
        started = self._run.started
        events = reported_problems(
            self._engine, started.id, disk_name=self._disk.name, since=started.creation_date
        )
        bases = self._run.bases
        reason = bases.untracked(with_events(why, events))
        if bases.notify is not None:
            bases.notify(f"reading one disk of VM {printable(self._vm.name)} whole: {reason}")
        return reason

    def _check_unchanged(self, parent: Backup | None, stream: Stream, source: Source) -> str | None:
        """Compare a sample with the repository; return in words why the stored data cannot be a base, or None."""
        if parent is None or self._options.check_unchanged <= 0 or not self._repository.opens:
            return None
        try:
            check_unchanged(self._repository, parent, stream, source, self._options.check_unchanged)
        except UntrackedChange:
            notes.distrust(self._repository.store, self._vm.id, self._disk.id)
            raise
        except StoredDamage as error:
            return self._run.bases.damage_found(error)
        except NoFittingIdentity:
            # The stored data is sealed to recipients of an earlier epoch.
            return None
        return None
