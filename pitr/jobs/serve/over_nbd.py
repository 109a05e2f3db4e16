# SPDX-License-Identifier: GPL-2.0-or-later
"""Serve the disks of a point as read-only NBD exports, with the same checks as a restore."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pitr import times
from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.endpoints.points.point import PointSource, open_point
from pitr.errors import PitrError, UsageError
from pitr.jobs import known_damage
from pitr.model import Backup, Stream
from pitr.nbd.server import Export, Exports, NbdServer
from pitr.nbd.server.uris import uri
from pitr.repository import Repository
from pitr.text import printable
from pitr.units import MIB

_log = logging.getLogger(__name__)

DEFAULT_CACHE = 256 * MIB


@dataclass(frozen=True, slots=True)
class Served:
    """A served disk: the name of its export, its NBD URI, and its size in bytes.

    `point_uri` leads to the same export by a name that is unique to this disk at this point.
    """

    disk_id: str
    name: str
    export: str
    uri: str
    point_uri: str
    size: int


@contextmanager
def serving(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    listener: socket.socket,
    *,
    cache_bytes: int = DEFAULT_CACHE,
    folder: FrameFolder | None = None,
    on_unreadable: Callable[[PitrError], None] | None = None,
) -> Iterator[list[Served]]:
    """Serve these disks on `listener` until the block exits; then close it.

    The point cannot be removed meanwhile. `cache_bytes` limits the cache of decompressed frames in memory, and `folder`
    keeps them on a disk. `on_unreadable` gets the damage that clients run into, in one of the server's threads. Raises
    StoredDamage if a chain is incomplete, UsageError for streams that are stored externally, BusyError.
    """
    names = export_names(streams)
    with repository.reading_vm(backup.vm), ExitStack() as stack:
        points = [stack.enter_context(_opened(repository, backup, stream)) for stream in streams]
        cache = stack.enter_context(FrameCache(cache_bytes, folder=folder))
        recorder = known_damage.Recorder(repository, backup.vm.id, "serve", _log.warning)

        def on_damage(damage: str, error: PitrError) -> None:
            # A client only gets an input/output error.
            _log.error("clients cannot read %s", damage)
            recorder.record(error)
            if on_unreadable is not None:
                on_unreadable(error)

        exports = [
            Export(
                (*names[stream.disk_id], _unique(backup, stream)),
                _description(backup, stream),
                CachedPoint(point, cache, on_damage),
            )
            for stream, point in zip(streams, points, strict=True)
        ]
        stack.enter_context(NbdServer(Exports(exports), listener))
        yield [
            Served(
                disk_id=stream.disk_id,
                name=stream.name,
                export=names[stream.disk_id][0],
                uri=uri(listener, names[stream.disk_id][0]),
                point_uri=uri(listener, _unique(backup, stream)),
                size=stream.size,
            )
            for stream in streams
        ]


def _opened(repository: Repository, backup: Backup, stream: Stream) -> PointSource:
    try:
        with known_damage.remembering(repository, backup.vm.id, "serve"):
            return open_point(repository, backup, stream)
    except UsageError as error:
        raise UsageError(
            f"cannot serve disk {printable(stream.name)}: {error.message}", error.advice
        ) from None


def export_names(streams: Sequence[Stream]) -> dict[str, tuple[str, ...]]:
    """Return the export names of each disk, by disk id.

    These are the disk's name if it is unique, its id, and "" if there is only one disk.
    """
    ids = {stream.disk_id for stream in streams}
    uses = Counter(stream.name for stream in streams)
    names: dict[str, tuple[str, ...]] = {}
    for stream in streams:
        # NBD limits the length of a name, and a name must not be another disk's id.
        usable = 0 < len(stream.name.encode(errors="replace")) <= 4096 and stream.name.isprintable()
        own = usable and uses[stream.name] == 1 and stream.name not in ids
        names[stream.disk_id] = (
            *([stream.name] if own else []),
            stream.disk_id,
            *([""] if len(streams) == 1 else []),
        )
    return names


def _unique(backup: Backup, stream: Stream) -> str:
    return f"{stream.disk_id}@{backup.backup_id}"


def _description(backup: Backup, stream: Stream) -> str:
    return f"disk {printable(stream.name)} of VM {printable(backup.vm.name)} at {times.to_text(backup.point)}"
