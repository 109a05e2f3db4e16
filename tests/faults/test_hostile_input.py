# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile input: for any content of a repository, pitr answers or raises its own error, in little memory."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.errors import DamageError, FormatError, RepositoryError
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, record
from tests.support import hostile
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import SOAK, Stored, chain_of_three

often = settings(
    max_examples=5000 if SOAK else 200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: The numbers that an attacker would write.
NUMBERS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([0, -1, 1, 512, 1 << 20, 1 << 40, 1 << 60, (1 << 60) + 1, (1 << 63) - 1, -(1 << 63)]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        NUMBERS,
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from(
            ["../../etc/passwd", "a\nb", "\x1b]0;x\x07", "/", ".", "", "full", "2020-06-30T22:00:00Z"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with pytest.MonkeyPatch.context() as patch:
        engine = MemoryEngine()
        engine.install(patch)
        yield chain_of_three(tmp_path_factory.mktemp("hostile") / "repository", engine)[0]


@pytest.fixture(scope="module")
def document(stored: Stored) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(sorted(stored.path.glob("backups/*/*.json"))[1].read_bytes())
    return found


@pytest.fixture
def damaged(stored: Stored, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored.path, tmp_path / "damaged"))


@contextmanager
def little_memory(more: int = 256 << 20) -> Iterator[None]:
    """Limit the additional memory of this process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@often
@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_a_stream_and_frames(data: bytes) -> None:
    hostile.read_record(data)
    hostile.read_stream(data)
    hostile.read_frames(data)
    hostile.read_frames(zstandard.compress(data) + data)


@often
@given(VALUES)
def test_any_json_as_a_record(value: Any) -> None:
    hostile.read_record(hostile.sealed(value))


@often
@given(st.data())
def test_a_record_with_any_values(document: dict[str, Any], data: st.DataObject) -> None:
    changed: Any = orjson.loads(orjson.dumps(document))
    at: Any = changed
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(VALUES)
        break
    hostile.read_record(hostile.sealed(changed))


@often
@given(
    st.lists(
        st.tuples(
            NUMBERS,
            NUMBERS,
            st.none() | st.sampled_from([0, 1]) | NUMBERS,
            st.none() | NUMBERS,
            st.none() | NUMBERS | st.floats() | st.text(max_size=5),
            st.none() | NUMBERS,
            st.none() | NUMBERS,
            st.none() | st.binary(max_size=40),
        ),
        max_size=5,
    ),
    st.dictionaries(
        st.sampled_from(
            [
                "size",
                "frame_size",
                "blob_size",
                "blob_digest",
                "number",
                "kind",
                "stream_id",
                "parent_stream_id",
            ]
        ),
        NUMBERS | st.text(max_size=5) | st.none() | st.binary(max_size=5),
        max_size=2,
    ),
)
def test_an_index_with_any_rows(
    stored: Stored, tmp_path: Path, rows: list[tuple[object, ...]], stream: dict[str, object]
) -> None:
    template = next(stored.path.glob("indexes/*/*.index.db"))
    path = tmp_path / "index.db"
    try:
        hostile.write_rows(template, path, rows, stream)
    except sqlite3.IntegrityError as error:
        assert "NOT NULL" in str(error) or "datatype mismatch" in str(error)
        return
    with little_memory():
        hostile.read_index(path)


@often
@given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=64))
def test_an_index_with_any_bytes_in_it(stored: Stored, tmp_path: Path, start: int, data: bytes) -> None:
    template = next(stored.path.glob("indexes/*/*.index.db"))
    whole = bytearray(template.read_bytes())
    start %= len(whole)
    whole[start : start + len(data)] = data
    path = tmp_path / "index.db"
    path.write_bytes(whole)
    hostile.read_index(path)


def test_a_frame_that_claims_a_tebibyte_costs_nothing() -> None:
    # The header of a frame: magic, descriptor (8 bytes of content size, a checksum, one segment), the size.
    claims = b"\x28\xb5\x2f\xfd" + b"\xe4" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    assert zstandard.get_frame_parameters(claims).content_size == 1 << 40
    with little_memory():
        hostile.read_frames(claims)
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    with little_memory():
        hostile.read_frames(bomb)


def test_headers_that_claim_too_much_cost_nothing() -> None:
    with little_memory():
        for header in (
            b"meta %016x %016x\r\n" % (0, 1 << 50),
            b"data %016x %016x\r\n" % (0, 1 << 50),
            b"zero ffffffffffffffff ffffffffffffffff\r\n",
        ):
            hostile.read_stream(header)
            hostile.read_stream(
                b'meta 0000000000000000 0000000000000027\r\n{"virtual-size":1125899906842624,"incremental":false}\r\n'
                + header
            )


def test_json_bombs_and_invalid_numbers_are_refused() -> None:
    with little_memory():
        for bomb in (
            b"[" * (1 << 20),
            b'{"a":' * (1 << 20),
            b"[" + b"1," * (1 << 20) + b"1]",
            b"1" * (1 << 20),
        ):
            with pytest.raises(FormatError):
                record.decode(bomb)
    for number in (math.nan, math.inf, 1e308, 0.1):
        text = orjson.dumps(number) if math.isfinite(number) else str(number).encode()
        with pytest.raises(FormatError):
            record.decode(b'{"digest":"' + b"0" * 64 + b'","size":' + text + b"}")


def test_a_record_that_is_too_large_is_not_read(damaged: Path) -> None:
    path = next(damaged.glob("backups/*/*.json"))
    os.truncate(path, 1 << 40)
    with little_memory(), Repository.open(damaged) as repository:
        assert verify(repository, Scope(), "quick").damage[0].what == "record"


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder", "symlink to folder"])
@pytest.mark.parametrize(
    "pattern", ["repository.json", "backups/*/*.json", "indexes/*/*.index.db", "blobs/*/*.zst"]
)
def test_a_link_pipe_or_folder_instead_of_a_file_is_damage(
    damaged: Path, tmp_path: Path, kind: str, pattern: str
) -> None:
    path = next(damaged.glob(pattern))
    aside = tmp_path / "aside"
    path.rename(aside)
    if kind == "symlink":
        path.symlink_to(aside)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path)
    with pytest.raises((DamageError, RepositoryError)), Repository.open(damaged) as repository:
        damage = verify(repository, Scope(), "quick").damage
        assert damage
        raise DamageError("found")
    hostile.read_repository(damaged)


def test_a_linked_folder_is_refused(damaged: Path, tmp_path: Path) -> None:
    folder = next(damaged.glob("backups/*"))
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (damaged / "catalog.db").unlink()
    with Repository.open(damaged) as repository:
        assert repository.catalog.points() == []
        assert not verify(repository, Scope(), "quick").ok


@pytest.mark.parametrize("folder", ["backups", "blobs/*", "locks", "catalog.db"])
def test_prune_removes_nothing_through_a_linked_folder(damaged: Path, tmp_path: Path, folder: str) -> None:
    with Repository.open(damaged) as repository:
        vm = repository.catalog.points()[0].vm
        with repository.removing_from_vm(vm):
            pass
    inside = sorted(damaged.glob(folder))[0]
    elsewhere = tmp_path / "elsewhere"
    inside.rename(elsewhere)
    inside.symlink_to(elsewhere)

    def content() -> dict[Path, bytes]:
        folders = (damaged / "backups", damaged / "blobs", elsewhere)
        paths = [path for one in folders for path in (one, *one.resolve().rglob("*"))]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = content()
    with (
        pytest.raises(RepositoryError, match="is a symbolic link") as raised,
        Repository.open(damaged) as repository,
    ):
        done = prune(
            repository, Retention(last=1), [vm], grace=timedelta(seconds=-1), notify=lambda line: None
        )
        for failure in done.failed:
            raise failure.error
    assert raised.value.advice
    assert content() == before


def test_names_that_lead_out_of_the_repository_are_refused(stored: Stored, document: dict[str, Any]) -> None:
    for name in ("../../etc/passwd", "a/b", "..", ".hidden", "a\nb", "\x1b[31m", "", "x" * 200):
        for change in (
            {"backup_id": name},
            {"vm": {"id": name, "name": "web1"}},
            {"disks": [{**document["disks"][0], "stream_id": name}]},
            {"disks": [{**document["disks"][0], "disk_id": name}]},
        ):
            with pytest.raises(FormatError):
                record.decode(hostile.sealed({**document, **change}))


@settings(often, max_examples=1000 if SOAK else 40)
@given(st.data())
def test_a_repository_with_any_bytes_anywhere(stored: Stored, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "any"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(stored.path, path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and "locks" not in file.parts)
    for _ in range(data.draw(st.integers(1, 3))):
        file = data.draw(st.sampled_from(files))
        whole = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, max(0, len(whole) - 1)))
        whole[start : start + data.draw(st.integers(0, 100))] = data.draw(st.binary(max_size=100))
        file.write_bytes(whole)
    hostile.read_repository(path)
