# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a backup of four disks at once with the same disks one after the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import disks
import measure
from measure import Result, Size

from pitr.copier import copy_all
from pitr.copier.protocols import Sink, Source
from pitr.model import DiskSettings, Kind
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
from pitr.repository.store import PosixStore
from pitr.repository.stream_sink import NewStream, StreamSink

DISKS = 4


class DiskCopy:
    """One disk of a backup, as `pitr backup` gives it to the copier."""

    def __init__(self, store: PosixStore, address: ImageioAddress) -> None:
        self._store = store
        self._address = address

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        ids = [str(uuid.uuid4()) for _ in range(3)]
        new = NewStream(ids[0], ids[1], ids[2], "disk", Kind.FULL, "asked for", None, DiskSettings())
        source = ImageioSource(self._address)
        meta = {"virtual-size": source.size, "incremental": False}
        with StreamSink(self._store, new, source.size, meta, level=1) as sink:
            yield source, sink


def benchmark(size: Size) -> list[Result]:
    each = max(size.disk_bytes // 16, 128 * measure.MIB)
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, each)
        with disks.host(folder / "h", unix_socket=True) as host:
            addresses = []
            for number in range(DISKS):
                host.create_volume(f"disk{number}", each, "cow", content=image)
                url = host.serve_volume(f"disk{number}", read_only=True)
                addresses.append(disks.ticket(host, url, each, ops=("read",))[1])

            samples = measure.in_turn(
                size.runs,
                {
                    "at once": lambda: measure.seconds(lambda: _back_up([addresses])),
                    "in turn": lambda: measure.seconds(lambda: _back_up([[one] for one in addresses])),
                },
            )
    return [measure.compared(f"{DISKS} disks of one VM", samples, "at once", "in turn", goal=1.0)]


def _back_up(groups: Sequence[Sequence[ImageioAddress]]) -> None:
    with measure.folder() as place:
        store = PosixStore(place)
        for group in groups:
            copy_all([DiskCopy(store, address) for address in group])
        store.close()


if __name__ == "__main__":
    measure.main(benchmark)
