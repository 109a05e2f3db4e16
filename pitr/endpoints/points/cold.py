# SPDX-License-Identifier: GPL-2.0-or-later
"""Find data in cold storage classes before it is needed.

A lifecycle rule of a bucket may move blobs to a class from which the store must bring them back first, which takes
minutes to hours. A read of one byte tells, with any server.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain, resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ColdObject
from pitr.text import counted
from pitr.units import human_size

_REQUESTS = 8


class ColdPoint(ColdObject):
    """Data of a point is in a cold storage class. `streams` are those whose blobs are."""

    def __init__(self, backup: Backup, streams: list[Stream]) -> None:
        size = sum(stream.stored_bytes for stream in streams)
        super().__init__(
            f"{counted(len(streams), 'blob')} ({human_size(size)}) of the point {backup.backup_id} "
            f"{'is' if len(streams) == 1 else 'are'} in a cold storage class",
            f"Run 'pitr warm --point {backup.backup_id} --wait', and repeat the command then.",
        )
        self.streams = streams


def check_warm(repository: Repository, resolved: ResolvedChain) -> None:
    """Raise ColdPoint if data of the chain that the point needs is in a cold storage class."""
    streams = cold_streams(repository, resolved)
    if streams:
        raise ColdPoint(resolved.sources[0].backup, streams)


def cold_streams(repository: Repository, resolved: ResolvedChain) -> list[Stream]:
    """Return the streams whose blobs hold live data and are in a cold storage class."""
    if isinstance(repository.location, Path):
        return []
    blobs = needed_blobs(resolved)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        cold = list(pool.map(lambda blob: _is_cold(repository, *blob), blobs))
    return [stream for (_, stream), is_cold in zip(blobs, cold, strict=True) if is_cold]


def check_warm_point(repository: Repository, backup: Backup, stream: Stream) -> None:
    """Raise ColdPoint if data that a disk needs is in a cold storage class; StoredDamage for a damaged chain."""
    if not isinstance(repository.location, Path):
        check_warm(repository, resolve_chain(repository, backup, stream))


def needed_blobs(resolved: ResolvedChain) -> list[tuple[Backup, Stream]]:
    """Return the streams whose blobs hold live data, once each."""
    layers = resolved.map.layers_of_data()
    sources = [resolved.sources[layer] for layer in layers]
    return list({source.stream.stream_id: (source.backup, source.stream) for source in sources}.values())


def _is_cold(repository: Repository, backup: Backup, stream: Stream) -> bool:
    if stream.blob is None or not repository.is_here(stream):
        return False
    try:
        with repository.open_blob(backup, stream) as blob:
            blob.read_at(0, 1)
    except ColdObject:
        return True
    except StoredDamage:
        # The reader of the point tells.
        return False
    return False
