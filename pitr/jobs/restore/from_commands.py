# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of what can only be read front to back: points whose blobs come from commands, and single streams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import BinaryIO, cast

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.pour import pour
from pitr.endpoints.points.chain_stream import ChainStream, SalvageStream
from pitr.endpoints.points.passed_once import PassedOnce
from pitr.endpoints.points.salvage import known_chain, open_blob_of_any_size
from pitr.endpoints.streams.commands import CommandTemplate
from pitr.endpoints.streams.front_to_back import FrontToBack
from pitr.endpoints.streams.input import from_command
from pitr.jobs.restore.from_repository import advising
from pitr.jobs.restore.target import Restored, Target, planned
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository


def is_elsewhere(repository: Repository, backup: Backup, streams: Sequence[Stream]) -> bool:
    """Whether a blob that these disks stand on is not in the repository, as far as their chains are known."""
    return any(
        not repository.is_here(part)
        for stream in streams
        for _, part in known_chain(repository, backup, stream)
    )


def plan_from_commands(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    target: Target,
    *,
    keep_going: bool = False,
) -> list[Restored]:
    """What `restore_from_commands` would do; the indexes tell, and no command is started. Raises StoredDamage."""

    def open_blob(owner: Backup, stream: Stream) -> AbstractContextManager[BinaryIO]:
        raise RuntimeError("a plan reads no blobs")

    kind = SalvageStream if keep_going else ChainStream
    done: list[Restored] = []
    with advising(repository, backup):
        for stream in streams:
            source = kind(repository, backup, stream, open_blob)
            done.append(planned(stream, target, source, source.damaged()))
    return done


def restore_from_commands(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    target: Target,
    get_command: CommandTemplate,
    *,
    keep_going: bool = False,
    verified: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore disks of a point whose blobs `get_command` gives back. Disks and blobs come one after the other.

    Blobs that are in the repository are read from there. Raises StoredDamage before anything damaged is written,
    ProgramFailed when a command fails, however much it gave before. With `keep_going` all that can be proven is
    restored, and the rest is said in the result. `verified`: the target compares what it holds in the end, for which
    what has passed is remembered: each blob is read once all the same.
    """

    @contextmanager
    def open_blob(owner: Backup, stream: Stream) -> Iterator[BinaryIO]:
        if repository.is_here(stream):
            opened = open_blob_of_any_size if keep_going else Repository.open_blob
            with opened(repository, owner, stream) as stored:
                yield cast(BinaryIO, FrontToBack(stored))
            return
        words = get_command.filled(
            stream_id=stream.stream_id,
            disk_id=stream.disk_id,
            backup_id=owner.backup_id,
            vm_id=owner.vm.id,
        )
        with from_command(words) as output:
            yield output

    kind = SalvageStream if keep_going else PassedOnce if verified else ChainStream
    done: list[Restored] = []
    with repository.reading_vm(backup.vm), advising(repository, backup), ExitStack() as failure:
        failure.callback(target.undo)
        for stream in streams:
            started_at = time.monotonic()
            source = kind(repository, backup, stream, open_blob)
            with target.sink(stream, source) as (name, sink):
                copied = pour(source, sink, workers=workers, progress=progress)
            done.append(
                Restored(
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
            )
        target.finish()
        failure.pop_all()
    return done
