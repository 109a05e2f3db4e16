# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the difference of two points, and its page, with reading the rows of their indexes."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import measure
import numpy as np
from chains import VM
from measure import Result, Size
from resolver import read_rows

GRAIN = 1 << 16


def make_points(folder: Path, rows: int, incrementals: int) -> None:
    """Create a repository: the full has half of the rows, the incrementals share the rest. Blobs are external."""
    from datetime import UTC, datetime

    from pitr.model import Backup, DiskSettings, Kind, Mode, Record, StoredObject, Stream
    from pitr.repository import Repository, names

    disk_id = str(uuid.uuid4())
    grains = rows // 2
    chance = np.random.default_rng(11)
    point = datetime(2020, 6, 29, 22, tzinfo=UTC)
    parent: Backup | None = None
    with Repository.create(folder / "repository") as repository:
        for number in range(incrementals + 1):
            if number == 0:
                chosen = np.arange(0, grains)
            else:
                chosen = np.sort(chance.choice(grains, rows // 2 // incrementals, replace=False))
            stream_id, backup_id = str(uuid.uuid4()), str(uuid.uuid4())
            kind = Kind.FULL if parent is None else Kind.INCREMENTAL
            parent_stream = parent.streams[0].stream_id if parent else None
            path = folder / f"{number}.db"
            size = grains * GRAIN
            write_index(path, stream_id, backup_id, disk_id, kind, size, parent_stream, chosen.tolist())
            content = path.read_bytes()
            repository.store.create(names.index(disk_id, stream_id), content)
            stream = Stream(
                stream_id=stream_id,
                disk_id=disk_id,
                name="disk",
                kind=kind,
                reason=None,
                size=size,
                parent_stream_id=parent_stream,
                frame_size=GRAIN,
                data_bytes=len(chosen) * GRAIN,
                zero_bytes=0,
                extents=len(chosen),
                blob=StoredObject(size, "0" * 64),
                index=StoredObject(len(content), digest(content)),
                settings=DiskSettings(),
                external="zstd",
            )
            parent = Backup(
                backup_id=backup_id,
                vm=VM,
                kind=kind,
                reason=None,
                point=point + timedelta(hours=number),
                lo=point + timedelta(hours=number),
                parent_id=parent.backup_id if parent else None,
                checkpoint_id=None,
                from_checkpoint_id=None,
                mode=Mode.LIVE,
                consistency="unknown",
                streams=(stream,),
                left_out=(),
                duration_ms=0,
                pitr_version="bench",
            )
            repository.commit(Record(parent, None))


def write_index(
    path: Path,
    stream_id: str,
    backup_id: str,
    disk_id: str,
    kind: str,
    size: int,
    parent: str | None,
    grains: list[int],
) -> None:
    from pitr.repository.index import IndexRow, IndexWriter, PartRow, StreamRow

    def rows() -> Iterator[IndexRow]:
        for at, grain in enumerate(grains):
            name = hashlib.blake2b(f"{stream_id}{grain}".encode(), digest_size=32).digest()
            yield IndexRow(grain * GRAIN, GRAIN, at * 100, 100, name)

    writer = IndexWriter(path)
    writer.add(list(rows()))
    own = [PartRow(0, disk_id, stream_id, size, "0" * 64)]
    writer.finish(StreamRow(stream_id, backup_id, disk_id, kind, size, parent, GRAIN), own)


def digest(content: bytes) -> str:
    from blake3 import blake3

    return blake3(content).hexdigest()


def compare(folder: Path, page: Path | None) -> dict[str, object]:
    """Compare the first incremental with the last one in this process. Return the time and the peak memory."""
    from pitr.jobs.diff.page import Page
    from pitr.jobs.diff.two_points import diff
    from pitr.repository import Repository

    before = measure.peak_bytes()
    start = time.perf_counter()
    with Repository.open(folder / "repository") as repository:
        points = repository.catalog.points()
        drawn = Page(page, repository.catalog, points[-2], points[0]) if page else None
        found = diff(repository, points[-2], points[0], look=drawn.add if drawn else None)
        if drawn is not None:
            drawn.finish(found)
    return {
        "wall_s": time.perf_counter() - start,
        "changed": found[0].changed_bytes,
        "page_bytes": page.stat().st_size if page else 0,
        "peak_bytes": measure.peak_bytes() - before,
    }


def benchmark(size: Size) -> list[Result]:
    rows, incrementals = (200_000, 10) if size.quick else (2_000_000, 50)
    results: list[Result] = []
    with measure.folder() as folder:
        make_points(folder, rows, incrementals)
        reports: dict[str, list[dict[str, float]]] = {"diff": [], "page": [], "rows": []}

        def program(what: str) -> float:
            report = json.loads(measure.run_python(Path(__file__), what, folder).output)
            reports[what].append(report)
            return float(report["wall_s"])

        samples = measure.in_turn(size.runs, {name: lambda name=name: program(name) for name in reports})  # type: ignore[misc]
        name = f"diff, {rows / 1e6:g} M extents in {incrementals + 1} streams"
        for what, told in (("diff", name), ("page", f"{name}, with its page")):
            pair = {what: samples[what], "rows": samples["rows"]}
            results.append(measure.compared(told, pair, what, "rows", goal=6.0))
        largest = max(report["page_bytes"] for report in reports["page"])
        results.append(Result("diff: the page", largest / 1e6, 1.0, "MB", 1.0, peer_name="the goal"))
        peak = max(report["peak_bytes"] for report in reports["page"]) / rows
        results.append(Result(f"{name}: memory", peak, 300, "B/extent", 1.0, peer_name="the goal"))
    return results


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in {"diff", "page", "rows"}:
        given = Path(sys.argv[2])
        if sys.argv[1] == "rows":
            report = read_rows(given)
        else:
            target = given / f"{uuid.uuid4()}.html" if sys.argv[1] == "page" else None
            report = compare(given, target)
        print(json.dumps(report))
    else:
        measure.main(benchmark)
