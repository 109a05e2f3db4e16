# SPDX-License-Identifier: GPL-2.0-or-later
"""What an attacker, or chance, could put into a repository, given to everything that reads one.

Each function takes bytes or values from anywhere. Nothing but an error of pitr's may come out.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import orjson
from blake3 import blake3

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.point import open_point
from pitr.endpoints.points.salvage import open_salvage
from pitr.errors import FormatError, PitrError
from pitr.formats.sparse import SparseReader
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, record
from pitr.repository.blob import Decompressor
from pitr.repository.index import Index


def read_record(stored: bytes) -> None:
    with suppress(FormatError):
        record.decode(stored)


def sealed(document: object) -> bytes:
    """A document with a right digest, in the right form: what is wrong with it is only what it says."""
    if not isinstance(document, dict):
        return orjson.dumps(document)
    without = {key: value for key, value in document.items() if key != "digest"}
    digest = blake3(orjson.dumps(without, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**without, "digest": digest}, option=orjson.OPT_SORT_KEYS)


def read_stream(stored: bytes) -> None:
    with suppress(FormatError):
        reader = SparseReader(io.BytesIO(stored))
        for header in reader:
            if not header.zero:
                left = header.length
                while left:
                    left -= len(reader.read(min(left, 1 << 16)))


def read_frames(stored: bytes) -> None:
    readers: tuple[Callable[[], bytes], ...] = (
        lambda: Decompressor().decompress(stored, 1 << 16),
        lambda: Decompressor().first_text(stored, 1 << 16),
        lambda: Decompressor().decompress_text(stored, 1 << 16),
    )
    for read in readers:
        with suppress(FormatError):
            assert len(read()) <= 1 << 16


def read_index(path: Path) -> None:
    with suppress(FormatError), Index(path) as index:
        extents = index.extents()
        index.part_numbers()
        frames = [index.frames(part.number) for part in index.parts]
        assert sum(map(len, frames)) <= len(extents)
        assert index.count() == len(list(index.rows()))


def write_rows(
    template: Path, path: Path, rows: Sequence[tuple[object, ...]], stream: dict[str, object]
) -> None:
    """A copy of an index that holds these rows, which its schema may forbid; columns of `stream` are changed."""
    shutil.copy(template, path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.executescript(
            "PRAGMA synchronous = OFF;"
            "DROP TABLE extent;"
            "CREATE TABLE extent (start, length, part, blob_offset, blob_length, frame_length, skip, digest);"
            "PRAGMA ignore_check_constraints = ON;"
        )
        connection.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        for column, value in stream.items():
            table = "part" if column in ("number", "blob_size", "blob_digest") else "stream"
            connection.execute(f"UPDATE {table} SET {column} = ?", [value])  # noqa: S608
    finally:
        connection.close()


def read_repository(path: Path) -> None:
    """Open, list, verify and restore all that there is."""
    with suppress(PitrError), Repository.open(path) as repository:
        with suppress(PitrError):
            verify(repository, Scope(), "full", workers=1)
        with suppress(PitrError):
            repository.check_catalog()
        for backup in repository.catalog.points():
            for stream in backup.streams:
                if stream.size > 1 << 24:
                    continue
                for open_it in (open_point, open_salvage):
                    with suppress(PitrError), open_it(repository, backup, stream) as source:
                        copy(source, MemorySink(source.size), workers=1)
