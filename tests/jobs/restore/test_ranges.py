# SPDX-License-Identifier: GPL-2.0-or-later
"""The ranges that several machines restore of one disk."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pitr.copier.protocols import WINDOW
from pitr.endpoints.images.shared_file import SharedFileSink
from pitr.endpoints.points.point import open_point
from pitr.extents import ExtentMap
from pitr.jobs.restore import one_range
from pitr.jobs.restore.one_range import copy_range, disk_ranges
from pitr.repository import Repository
from tests.support.points import read_point, written


@pytest.mark.parametrize("seed", range(20))
def test_ranges_cover_the_disk_between_windows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_range, "SMALLEST", 8 << 20)
    chance = random.Random(seed)
    rows, size = [], 0
    for _ in range(chance.randrange(1, 60)):
        length = chance.randrange(1, 40) << 16
        rows.append((size, length, chance.random() < 0.4))
        size += length
    extents = ExtentMap.of(rows).merged()
    found = list(disk_ranges(extents, size, chance.randrange(1, 5)))
    assert found[0].start == 0 and found[-1].end == size
    assert all(one.end == two.start and one.end % WINDOW == 0 for one, two in pairwise(found))
    assert sum(part.data_bytes for part in found) == extents.data_bytes
    assert all(part.data_bytes == extents.between(part.start, part.end).data_bytes for part in found)
    if extents.data_bytes >= 4 * one_range.SMALLEST:
        assert len(found) > 1


@pytest.mark.usefixtures("quick_disk")
def test_each_range_writes_only_its_own_bytes(repository: Repository, tmp_path: Path) -> None:
    backup = written(repository, [("6m:A 4m:0 7m:B 3m:C", True), ("1m:D 64k:0 12m:- 1m:E 6080k:-", False)])[
        -1
    ]
    stream = backup.streams[0]
    with open_point(repository, backup, stream) as point:
        size = point.size
        whole, *_ = disk_ranges(point.extents(), size, 1)
    content = read_point(repository, backup, stream)
    sink = SharedFileSink(tmp_path / "disk.raw", size)
    file = sink.shared()
    expected = bytearray(size)
    for start, end in ((16 << 20, size), (0, 8 << 20), (8 << 20, 16 << 20)):
        part = replace(whole, start=start, end=end)
        copy_range(repository, backup, stream.disk_id, part, file, workers=2, progress=None)
        expected[start:end] = content[start:end]
        assert Path(file.path).read_bytes() == expected
    sink.flush()
    assert (tmp_path / "disk.raw").read_bytes() == content
