# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage-guided fuzzing of all readers of stored objects: `make fuzz`, with libFuzzer's own options.

The first byte of each input chooses the reader.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["pitr", "tests.support.hostile"]):
    import orjson

    from tests.support import hostile

_FOLDER = Path(tempfile.mkdtemp(prefix="pitr-fuzz-"))


def _record(data: bytes) -> None:
    hostile.read_record(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    try:
        hostile.read_record(hostile.sealed(value))
    except (orjson.JSONEncodeError, TypeError):
        # The library cannot write documents that are nested too deeply.
        return


def _index(data: bytes) -> None:
    path = _FOLDER / "index.db"
    path.write_bytes(data)
    hostile.read_index(path)


_READERS = (_record, _index, hostile.read_stream, hostile.read_frames)


def one_input(data: bytes) -> None:
    if data:
        _READERS[data[0] % len(_READERS)](data[1:])


def _seeds(corpus: Path) -> None:
    """Write a valid example of each kind as a seed."""
    import sqlite3

    import zstandard

    from pitr.formats import sparse
    from pitr.repository import schema

    stream = (
        sparse.meta_block({"virtual-size": 8192, "incremental": False})
        + sparse.data_header(0, 4096)
        + bytes(4096)
        + sparse.TAIL
        + sparse.zero_header(4096, 4096)
        + sparse.STOP
    )
    path = _FOLDER / "seed.db"
    connection = sqlite3.connect(path)
    connection.executescript(schema.read("index.sql"))
    connection.execute("INSERT INTO stream VALUES ('s', 'b', 'd', 'full', 8192, NULL, 4096)")
    connection.execute("INSERT INTO part VALUES (0, 'd', 's', 100, 'x')")
    connection.executemany(
        "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(0, 4096, 0, 10, 20, 4096, 0, bytes(32)), (4096, 4096, *[None] * 6)],
    )
    connection.commit()
    connection.close()
    record = hostile.sealed({"format": 2, "backup_id": "b", "vm_id": "v", "private": {"vm_name": "n"}})
    for number, data in enumerate((record, path.read_bytes(), stream, zstandard.compress(stream))):
        (corpus / f"seed{number}").write_bytes(bytes([number]) + data)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pitr-corpus-") as corpus:
        _seeds(Path(corpus))
        atheris.Setup([*sys.argv, "-timeout=10", "-rss_limit_mb=1024", corpus], one_input)
        atheris.Fuzz()
