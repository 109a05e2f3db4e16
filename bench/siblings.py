# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare what three clones of a template store with the template once and the own data of each clone."""

from __future__ import annotations

import random
import subprocess
import uuid
from contextlib import ExitStack

import chains
import disks
import measure
from compared import change
from measure import Result, Size

from pitr.copier import copy
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.endpoints.points.sharing import open_shared, sharing
from pitr.model import Backup, DiskSettings, Kind
from pitr.repository import Repository
from pitr.repository.stream_sink import NewStream

CLONES = 3
#: The share of each clone's data that is its own.
OWN = 0.10
GOAL = 1.1


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder:
        template = folder / "template.raw"
        disks.real_disk(template, size.disk_bytes)
        with Repository.create(folder / "repository") as repository:
            with RawFileSource(template) as source:
                alone = chains.store(repository, source, None, 0, str(uuid.uuid4())).streams[0]
            stored, apart, own = 0, 0, 0.0
            clones: list[Backup] = []
            for number in range(CLONES):
                image = folder / f"{number}.raw"
                subprocess.run(
                    ["cp", "--sparse=always", "--reflink=auto", str(template), str(image)], check=True
                )
                changed = change(image, OWN, random.Random(number))
                own += changed * alone.stored_bytes / alone.data_bytes
                with RawFileSource(image) as source:
                    full = chains.store(repository, source, None, number, str(uuid.uuid4()))
                    apart += full.streams[0].stored_bytes
                    stored += _shared(repository, clones, source) if clones else full.streams[0].stored_bytes
                    clones.append(full)
                image.unlink()
    one = alone.stored_bytes
    return [
        Result(
            f"{CLONES} clones, {OWN:.0%} of each its own: stored",
            stored / 1e6,
            (one + own) / 1e6,
            "MB",
            GOAL,
            "the template, and their own data",
            f"without sharing {apart / 1e6:.0f} MB",
        )
    ]


def _shared(repository: Repository, siblings: list[Backup], source: RawFileSource) -> int:
    """Store a full that shares the frames of siblings. Return the bytes of its blob and its index, both copies."""
    ids = [str(uuid.uuid4()) for _ in range(3)]
    new = NewStream(ids[0], ids[1], ids[2], "system", Kind.FULL, "asked for", None, DiskSettings())
    meta = {"virtual-size": source.size, "incremental": False}
    with ExitStack() as stack:
        disks = [
            stack.enter_context(open_shared(repository, sibling, sibling.streams[0])) for sibling in siblings
        ]
        sink = stack.enter_context(repository.new_stream(new, source.size, meta, level=1, of_parts=True))
        copy(source, sharing(sink, disks))
        stream = sink.stream
    return stream.stored_bytes + 2 * stream.index.size


if __name__ == "__main__":
    measure.main(benchmark)
