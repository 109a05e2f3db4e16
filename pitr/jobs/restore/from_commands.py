# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of points with external blobs, which a command returns; each blob is read once, front to back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.pour import pour
from pitr.endpoints.points.chain_stream import ChainStream, SalvageStream
from pitr.endpoints.points.passed_once import PassedOnce
from pitr.endpoints.points.salvage import known_chain, open_blob_of_any_size
from pitr.endpoints.streams.commands import CommandTemplate
from pitr.endpoints.streams.front_to_back import FrontToBack
from pitr.endpoints.streams.input import from_command
from pitr.jobs.restore.restored import Restored, planned
from pitr.jobs.restore.selection import DiskSelection, advise_on_damage, remembering_damage
from pitr.jobs.restore.target import Target
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository


def needs_external(selection: DiskSelection) -> bool:
    """Return whether a blob of the chains is stored externally, as far as the chains are known."""
    return any(
        not selection.repository.is_here(part)
        for stream in selection.streams
        for _, part in known_chain(selection.repository, selection.backup, stream)
    )


def plan(selection: DiskSelection, target: Target) -> list[Restored]:
    """Return the expected result from the indexes; run no command. Raises StoredDamage."""
    source_type = SalvageStream if selection.keep_going else ChainStream
    plans: list[Restored] = []
    with advise_on_damage(selection):
        for stream in selection.streams:
            source = source_type(selection.repository, selection.backup, stream, _read_no_blob)
            plans.append(planned(stream, target, source, source.needed(), source.damaged()))
    return plans


def restore(
    selection: DiskSelection,
    target: Target,
    get_command: CommandTemplate,
    *,
    verified: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore disks whose external blobs `get_command` returns, one disk and one blob at a time.

    Blobs in the repository are read from there. `verified`: the target compares each disk at its end; digests of the
    bytes that passed are kept for this, because a command returns each blob once. Raises StoredDamage before it
    writes anything damaged, and ProgramFailed if a command fails, even after it returned a whole blob.
    """
    blobs = _Blobs(selection.repository, get_command, selection.keep_going)
    source_type = SalvageStream if selection.keep_going else PassedOnce if verified else ChainStream
    done: list[Restored] = []
    with (
        selection.repository.reading_vm(selection.backup.vm),
        remembering_damage(selection),
        ExitStack() as failure,
    ):
        failure.callback(target.undo)
        target.prepare()
        for stream in selection.streams:
            source = source_type(selection.repository, selection.backup, stream, blobs.open)
            done.append(_restore_disk(stream, source, target, workers, progress))
        target.finish()
        failure.pop_all()
    return done


def _restore_disk(
    stream: Stream, source: ChainStream, target: Target, workers: int, progress: Progress | None
) -> Restored:
    started_at = time.monotonic()
    with target.sink(stream, source) as (name, sink):
        copied = pour(source, sink, workers=workers, progress=progress)
    return Restored(
        disk_id=stream.disk_id,
        name=stream.name,
        target=name,
        size=copied.size,
        bytes_written=copied.written,
        bytes_zeroed=copied.zeroed,
        bytes_skipped=copied.skipped,
        bytes_read=source.bytes_read,
        frames_read=source.frames_read,
        streams=source.streams_read,
        duration_s=time.monotonic() - started_at,
        damaged=source.damaged(),
    )


@dataclass(frozen=True, slots=True)
class _Blobs:
    """Opens blobs: from the repository, or from the command's output if they are external."""

    repository: Repository
    get_command: CommandTemplate
    keep_going: bool

    @contextmanager
    def open(self, owner: Backup, stream: Stream) -> Iterator[BinaryIO]:
        """Open the blob of a stream that `owner` made."""
        if self.repository.is_here(stream):
            open_stored = open_blob_of_any_size if self.keep_going else Repository.open_blob
            with open_stored(self.repository, owner, stream) as stored:
                yield cast(BinaryIO, FrontToBack(stored))
            return
        words = self.get_command.filled(
            stream_id=stream.stream_id,
            disk_id=stream.disk_id,
            backup_id=owner.backup_id,
            vm_id=owner.vm.id,
        )
        with from_command(words) as output:
            yield output


def _read_no_blob(owner: Backup, stream: Stream) -> AbstractContextManager[BinaryIO]:
    raise RuntimeError("a plan reads no blobs")
