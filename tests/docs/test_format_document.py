# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/format.md says what the code does: its example is real, and no field is left out."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from blake3 import blake3

from pitr.copier import copy
from pitr.model import DiskSettings, Kind
from pitr.repository import Repository, canonical, schema
from pitr.repository.catalog import catalog
from pitr.repository.index import Index
from pitr.repository.stream_sink import NewStream, StreamSink
from tests.support.points import blob_path, index_path, source

pytestmark = pytest.mark.usefixtures("quick_disk")

_TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
_META = {
    "virtual-size": 131584,
    "data-size": 66048,
    "date": "2020-06-29T22:00:00Z",
    "incremental": False,
    "stream-id": "s1",
    "parent-stream-id": None,
}


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)\n```", _TEXT, re.DOTALL)
    assert found
    return found[1]


def _table(head: str) -> list[list[str]]:
    """The rows of the table that begins with this line, cells without back quotes."""
    rows = _TEXT[_TEXT.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def _unpacked(blob: bytes) -> bytes:
    return subprocess.run(["zstd", "-dc"], input=blob, check=True, capture_output=True).stdout


def test_the_example_is_the_stream_that_the_code_writes(repository: Repository) -> None:
    new = NewStream("s1", "b1", "d1", "system", Kind.FULL, None, None, DiskSettings())
    disk = source("64k:A 64k:0 512:B")
    with StreamSink(repository.store, new, disk.size, _META, level=1) as sink:
        copy(disk, sink)
    shown = bytes.fromhex(_block("hex"))
    assert f"{len(shown)} bytes:" in _TEXT
    assert _unpacked(shown) == _unpacked(blob_path(repository, sink.stream).read_bytes())
    # Compressed sizes are those of the version of zstd that made the example.
    rows = [[*row[:3], *row[5:]] for row in _table("| start | length | part | blob_offset |")]
    with Index(index_path(repository, sink.stream)) as index:
        written = [
            [
                *(
                    "NULL" if each is None else str(each)
                    for each in (start, length, part, frame_length, skip)
                ),
                digest,
            ]
            for start, length, part, _, _, frame_length, skip, digest in _columns(index)
        ]
    assert rows == written


def _columns(index: Index) -> Iterator[tuple[Any, ...]]:
    for row in index.rows():
        *numbers, digest = row.columns()
        yield *numbers, digest.hex() if isinstance(digest, bytes) else "NULL"


def test_the_frames_of_the_example_are_where_it_says() -> None:
    shown = bytes.fromhex(_block("hex"))
    at = 0
    for offset, length, kind, content in _table("| blob offset | length | frame |"):
        assert int(offset) == at
        unpacked = _unpacked(shown[at : at + int(length)])
        at += int(length)
        if kind == "data":
            times, letter = content.split(" of `")
            assert unpacked == letter.encode() * int(times)
        else:
            headers = re.findall(r"(?:meta|data|zero|stop) [0-9a-f]{16} [0-9a-f]{16}", content)
            assert re.findall(rb"(?:meta|data|zero|stop) [0-9a-f]{16} [0-9a-f]{16}", unpacked) == [
                header.encode() for header in headers
            ]
    assert at == len(shown)
    for _, length, _, offset, stored, _, _, digest in _table("| start | length | part | blob_offset |"):
        if offset != "NULL":
            data = _unpacked(shown[int(offset) : int(offset) + int(stored)])
            assert (len(data), blake3(data).hexdigest()) == (int(length), digest)


def test_the_document_of_the_example_is_a_valid_one() -> None:
    document = canonical.decode(_block("json").encode(), "repository.schema.json")
    assert document["format"] == 2


def _properties(name: str, definition: str | None = None) -> set[str]:
    document = orjson.loads(schema.read(name))
    part = document if definition is None else document["definitions"][definition]
    return set(part["properties"])


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("repository.schema.json", None),
        ("record.schema.json", None),
        ("record.schema.json", "stream"),
        ("record.schema.json", "private_stream"),
        ("finding.schema.json", None),
        ("run.schema.json", None),
        ("proof.schema.json", None),
    ],
)
def test_every_field_is_described(name: str, definition: str | None) -> None:
    missing = {field for field in _properties(name, definition) if f"`{field}`" not in _TEXT}
    assert missing == set()


def test_every_value_that_a_field_can_have_is_described() -> None:
    document = orjson.loads(schema.read("record.schema.json"))
    values = document["properties"]["mode"]["enum"] + document["definitions"]["kind"]["enum"]
    assert {value for value in values if f"`{value}`" not in _TEXT} == set()


@pytest.mark.parametrize("name", ["index.sql", "catalog.sql"])
def test_tables_and_versions_are_described(name: str) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(schema.read(name))
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        versions = [
            connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("application_id", "user_version")
        ]
        if name == "index.sql":
            tables += [
                row[1] for table in tables for row in connection.execute(f"PRAGMA table_info({table})")
            ]
    connection.close()
    assert {table for table in tables if f"`{table}`" not in _TEXT} == set()
    described = f"`application_id` {versions[0]:#x}"
    assert described in _TEXT
    assert f"`user_version` {versions[1]}" in " ".join(_TEXT[_TEXT.index(described) :][:80].split())


def test_the_catalog_has_the_version_of_its_schema() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.read("catalog.sql"))
        assert connection.execute("PRAGMA user_version").fetchone() == (catalog.VERSION,)
