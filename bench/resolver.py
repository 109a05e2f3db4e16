# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare resolving a chain of indexes with reading their rows from SQLite."""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import measure
from measure import Result, Size

GRAIN = 1 << 16
#: SQLite gets that many rows of an index at once.
_BATCH = 1 << 16
#: From this number of rows, they dominate the memory.
_MANY = 500_000


def make_chain(folder: Path, rows: int, layers: int) -> None:
    """Write a chain of indexes with about `rows` rows in all, newest first: "0.db" is based on "1.db" and so on.

    The full has half of the rows, on every second grain of the disk. The incrementals change random grains.
    """
    from pitr.repository.index import IndexRow, IndexWriter, PartRow, StreamRow

    grains = max(2, rows // 2)
    size = grains * GRAIN
    ids = [str(uuid.uuid4()) for _ in range(layers)]
    backup_id, disk_id = str(uuid.uuid4()), str(uuid.uuid4())
    chooser = random.Random(7)
    for number in range(layers):
        full = number == layers - 1
        count = max(1, rows // 2 // max(1, layers - 1))

        def extents(full: bool = full, count: int = count) -> Iterator[IndexRow]:
            if full:
                for start in range(0, size, 2 * GRAIN):
                    yield IndexRow(start, GRAIN, start, GRAIN, bytes(32))
                    yield IndexRow(start + GRAIN, GRAIN, None, None, None)
                return
            for at, grain in enumerate(sorted(chooser.sample(range(grains), count))):
                yield IndexRow(grain * GRAIN, GRAIN, at * GRAIN, GRAIN, bytes(32))

        writer = IndexWriter(folder / f"{number}.db")
        batch: list[IndexRow] = []
        for row in extents():
            batch.append(row)
            if len(batch) == _BATCH:
                writer.add(batch)
                batch.clear()
        writer.add(batch)
        parent = None if full else ids[number + 1]
        kind = "full" if full else "incremental"
        own = [PartRow(0, disk_id, ids[number], size, "0" * 64)]
        writer.finish(StreamRow(ids[number], backup_id, disk_id, kind, size, parent, GRAIN), own)


def chain_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.db"), key=lambda path: int(path.stem))


def read_rows(folder: Path) -> dict[str, object]:
    """Read all rows of the chain and drop them."""
    from pitr.repository import sqlite

    start = time.perf_counter()
    count = 0
    for path in chain_files(folder):
        connection = sqlite.connect_read_only(path, immutable=True)
        for _ in connection.execute("SELECT * FROM extent ORDER BY start"):
            count += 1
        connection.close()
    return {"wall_s": time.perf_counter() - start, "rows": count}


def resolve_chain(folder: Path) -> dict[str, object]:
    """Read and resolve the chain. Return the time and the peak memory."""
    from pitr.repository.index import Index
    from pitr.repository.resolver import Layer, resolve

    before = measure.peak_bytes()
    start = time.perf_counter()
    layers = []
    for path in chain_files(folder):
        with Index(path) as index:
            layers.append(Layer(index.extents(), index.stream.size))
    rows = sum(len(layer.extents) for layer in layers)
    read_s = time.perf_counter() - start
    pieces = len(resolve(layers))
    return {
        "wall_s": time.perf_counter() - start,
        "read_s": read_s,
        "rows": rows,
        "pieces": pieces,
        "bytes_a_row": (measure.peak_bytes() - before) / rows,
    }


def benchmark(size: Size) -> list[Result]:
    results: list[Result] = []
    chains = [(500_000, 11)]
    if not size.quick:
        chains = [(100_000, 11), (1_000_000, 11), (3_000_000, 11), (10_000_000, 11), (1_000_000, 1001)]
    for rows, layers in chains:
        with measure.folder() as folder:
            make_chain(folder, rows, layers)
            reports: dict[str, list[dict[str, float]]] = {"resolve": [], "read": []}

            def program(
                what: str, folder: Path = folder, reports: dict[str, list[dict[str, float]]] = reports
            ) -> float:
                report = json.loads(measure.run_python(Path(__file__), what, folder).output)
                reports[what].append(report)
                return float(report["wall_s"])

            runs = size.runs if rows <= 1_000_000 else max(1, size.runs - 2)
            samples = measure.in_turn(
                runs, {"resolve": lambda: program("resolve"), "read": lambda: program("read")}
            )
        name = f"resolver, {rows / 1e6:g} M extents in {layers} streams"
        results.append(
            measure.compared(
                name, {"resolve": samples["resolve"], "rows": samples["read"]}, "resolve", "rows", goal=2.0
            )
        )
        peak = max(report["bytes_a_row"] for report in reports["resolve"])
        # Reading takes some 6 MB for any chain; a short chain has few extents to share them.
        goal = 1.0 if rows >= _MANY else None
        results.append(Result(f"{name}: memory", peak, 100, "B/extent", goal, peer_name="the goal"))
    return results


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in {"read", "resolve"}:
        report = (read_rows if sys.argv[1] == "read" else resolve_chain)(Path(sys.argv[2]))
        print(json.dumps(report))
    else:
        measure.main(benchmark)
