# SPDX-License-Identifier: GPL-2.0-or-later
"""What sealing costs: time and size of a sealed repository over those of one in the open, with the same disk."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import chains
import disks
import measure
from measure import Result, Size

from pitr.copier import copy
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.endpoints.points.point import open_point
from pitr.model import Backup
from pitr.repository import Repository
from pitr.repository.sealing import identities
from pitr.repository.sealing.identities import KeySettings
from pitr.repository.sealing.keys import Identity

_READ = 4096


class _Discarding:
    """A sink that drops what it gets."""

    max_writers = 2
    reads_zero = True

    @contextmanager
    def open_writer(self) -> Iterator[_Discarding]:
        yield self

    def write(self, offset: int, data: memoryview) -> None:
        """Drop the data."""

    def zero(self, offset: int, length: int) -> None:
        """Drop the range."""

    def flush(self) -> None:
        """Do nothing."""


class _Place:
    """A repository that is filled again and again."""

    def __init__(self, folder: Path, image: Path, recipients: list[str]) -> None:
        self._folder = folder
        self._image = image
        self._recipients = recipients
        self.path = Path()
        self.backup: Backup | None = None

    def back_up(self) -> float:
        self.path = self._folder / uuid.uuid4().hex
        with (
            Repository.create(self.path, recipients=self._recipients) as repository,
            RawFileSource(self._image) as source,
        ):

            def work() -> None:
                self.backup = chains.store(repository, source, None, 0, str(uuid.uuid4()))

            return measure.seconds(work)

    def restore(self) -> float:
        with Repository.open(self.path) as repository:
            backup = repository.catalog.points()[0]

            def work() -> None:
                with open_point(repository, backup, backup.streams[0]) as source:
                    copy(source, _Discarding(), workers=2)  # type: ignore[arg-type]

            return measure.seconds(work)

    def read_at_random(self, count: int) -> float:
        chance = random.Random(5)
        with Repository.open(self.path) as repository:
            backup = repository.catalog.points()[0]
            with open_point(repository, backup, backup.streams[0]) as source, source.open_reader() as reader:
                extents = [extent for extent in source.extents() if not extent.zero and extent.length > _READ]
                chosen = chance.choices(extents, k=count)
                starts = [each.start + chance.randrange(each.length - _READ) for each in chosen]
                view = memoryview(bytearray(_READ))

                def work() -> None:
                    for start in starts:
                        reader.read_ranges([(start, _READ)], view)

                return measure.seconds(work) / count * 1e6

    def stored(self) -> float:
        folders = ("blobs", "indexes", "configurations")
        found = (path for folder in folders for path in (self.path / folder).rglob("*"))
        return sum(path.stat().st_size for path in found if path.is_file()) / measure.MIB


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder, mock.patch.dict(os.environ, XDG_STATE_HOME=str(folder / "state")):
        image, key, made = folder / "disk.raw", folder / "key", [Identity.generate() for _ in range(2)]
        disks.real_disk(image, min(size.disk_bytes, measure.GIB))
        key.write_text(made[0].secret())
        plain = _Place(folder, image, [])
        sealed = _Place(folder, image, [str(each.recipient) for each in made])
        both = {"sealed": sealed, "open": plain}
        for place in both.values():
            place.back_up()
        results = [_compared("backup", {name: place.back_up for name, place in both.items()}, size, 1.08)]
        identities.use(KeySettings((key,)))
        results.append(
            _compared("restore", {name: place.restore for name, place in both.items()}, size, 1.25)
        )
        reads = {name: lambda place=place: place.read_at_random(2000) for name, place in both.items()}
        results.append(_compared("random 4 KiB, cold", reads, size, 1.3, unit="us a read"))
        sizes = {name: place.stored for name, place in both.items()}
        results.append(_compared("size", sizes, size, 1.001, unit="MiB"))
        identities.use(KeySettings())
    return results


def _compared(name: str, programs: dict, size: Size, goal: float, unit: str = "s") -> Result:  # type: ignore[type-arg]
    samples = measure.in_turn(size.runs, programs)
    return measure.compared(name, samples, "sealed", "open", goal=goal, unit=unit)


if __name__ == "__main__":
    measure.main(benchmark)
