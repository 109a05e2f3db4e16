# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python API: copies from every source to every sink, and what remains after a failed copy."""

from __future__ import annotations

import io
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import pitr
from pitr import Repository, copy, open_sink, open_source
from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.endpoints.streams.detect import open_stream
from pitr.errors import FormatError, NoSuchError, PitrError, UsageError
from pitr.lab.host.host import Host
from pitr.system.process import run
from tests.support.layout import stored
from tests.support.points import Writer, applied, disk, read_point

SIZE = 3 * (1 << 20) + 512
CONTENT = (
    random.Random(3).randbytes(1 << 20) + bytes(1 << 20) + b"x" * 100_000 + bytes(SIZE - (2 << 20) - 100_000)
)


@dataclass
class Place:
    """The folder, repository and host that hold the disks of each kind."""

    folder: Path
    repository: Repository
    host: Host
    servers: dict[str, QemuNbd] = field(default_factory=dict)
    names: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@dataclass
class Kind:
    """Opens a new sink, and later a source of the same disk."""

    sink: Callable[[], AbstractContextManager[Any]]
    source: Callable[[], AbstractContextManager[Any]]


def memory(place: Place) -> Kind:
    content = bytearray(b"?" * SIZE)
    return Kind(lambda: open_sink(content, SIZE), lambda: open_source(content))


def raw(place: Place) -> Kind:
    path = place.folder / f"{next(place.names)}.raw"
    return Kind(lambda: open_sink(path, SIZE), lambda: open_source(path))


def qcow2(place: Place) -> Kind:
    path = place.folder / f"{next(place.names)}.qcow2"
    return Kind(lambda: open_sink(path, SIZE), lambda: open_source(path))


def nbd(place: Place) -> Kind:
    path = place.folder / f"{next(place.names)}.export"
    with path.open("xb") as file:
        file.truncate(SIZE)
    server = place.servers[str(path)] = QemuNbd(path, "raw", read_only=False)
    return Kind(lambda: open_sink(server.url, SIZE, reads_zero=True), lambda: open_source(server.url))


def imageio(place: Place) -> Kind:
    name = f"disk{next(place.names)}"
    place.host.create_volume(name, SIZE, "cow")
    url = place.host.serve_volume(name, read_only=False)
    place.host.add_ticket(name, nbd_url=url, size=SIZE, ops=["read", "write"])
    where = f"{place.host.images_url}/{name}"
    return Kind(
        lambda: open_sink(where, SIZE, cafile=place.host.cafile, reads_zero=True),
        lambda: open_source(where, cafile=place.host.cafile),
    )


def _stream(place: Place, **options: Any) -> Kind:
    path = place.folder / f"{next(place.names)}.stream"

    @contextmanager
    def sink() -> Iterator[Any]:
        with path.open("xb", buffering=0) as file, open_sink(file, SIZE, **options) as opened:
            yield opened

    @contextmanager
    def source() -> Iterator[Any]:
        with path.open("rb") as file, open_source(file) as opened:
            yield opened

    return Kind(sink, source)


def sparse(place: Place) -> Kind:
    return _stream(place, compression="none")


def sparse_zstd(place: Place) -> Kind:
    return _stream(place)


def rbd(place: Place) -> Kind:
    return _stream(place, format="rbd-diff")


def rbd_v2(place: Place) -> Kind:
    return _stream(place, format="rbd-diff-v2", to_snapshot="now")


def point(place: Place) -> Kind:
    vm = f"vm{next(place.names)}"
    return Kind(
        lambda: open_sink(place.repository, SIZE, vm=vm, disk="system"),
        lambda: open_source(place.repository, point=_last(place, vm).backup_id),
    )


def stored_stream(place: Place) -> Kind:
    vm = f"vm{next(place.names)}"
    return Kind(
        lambda: open_sink(place.repository, SIZE, vm=vm, disk="system"),
        lambda: open_source(place.repository, stream=_last(place, vm).streams[0].stream_id),
    )


def _last(place: Place, vm: str) -> Any:
    return next(backup for backup in place.repository.catalog.points() if backup.vm.name == vm)


KINDS = [memory, raw, qcow2, nbd, imageio, sparse, sparse_zstd, rbd, rbd_v2, point, stored_stream]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    import tempfile

    folder = tmp_path_factory.mktemp("places")
    with (
        tempfile.TemporaryDirectory(prefix="pitr-") as short,
        Host(Path(short)) as host,
        Repository.create(folder / "repository") as repository,
    ):
        made = Place(folder, repository, host)
        yield made
        for server in made.servers.values():
            server.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_can_be_copied_to_each(place: Place, kind: Callable[[Place], Kind]) -> None:
    first = kind(place)
    with open_source(CONTENT) as source, first.sink() as sink:
        copied = copy(source, sink)
        assert copied.size == SIZE and copied.written + copied.zeroed + copied.skipped == SIZE
    for other in KINDS:
        second = other(place)
        with first.source() as source, second.sink() as sink:
            assert source.size == SIZE
            copy(source, sink, workers=2)
        found = bytearray(SIZE)
        with second.source() as source, open_sink(found, SIZE) as sink:
            copy(source, sink, workers=3)
        assert found == CONTENT, other.__name__


def test_progress_ends_at_the_total(place: Place) -> None:
    for kind in (raw, sparse):
        made = kind(place)
        with open_source(CONTENT) as source, made.sink() as sink:
            copy(source, sink)
        calls: list[tuple[int, int]] = []
        with made.source() as source, open_sink(bytearray(SIZE), SIZE) as sink:
            copy(source, sink, progress=lambda done, total: calls.append((done, total)))  # noqa: B023
        assert calls[-1] == (SIZE, SIZE) and calls == sorted(calls)


def test_differences_and_incrementals(repository: Repository) -> None:
    writer = Writer(repository)
    full, changes = writer.add("1m:A 64k:0 512k:B"), writer.add("64k:- 4k:X 100k:0 1m:-")
    content = [read_point(repository, one, one.streams[0]) for one in (full, changes)]
    for backup, since, before, after in ((changes, full, 0, 1), (full, changes, 1, 0)):
        out = io.BytesIO()
        with (
            open_source(repository, point=backup.backup_id, since=since.backup_id) as source,
            open_sink(out, source.size, incremental=True) as sink,
        ):
            copied = copy(source, sink)
        assert copied.written < copied.size
        out.seek(0)
        found = bytearray(content[before][: len(content[after])]).ljust(len(content[after]), b"?")
        with open_source(out) as streamed, open_sink(found, len(found)) as target:
            assert isinstance(streamed, pitr.StreamedSource) and not streamed.whole
            copy(streamed, target)
        assert found == content[after]
    with open_sink(
        repository,
        1 << 20,
        vm=full.vm.id,
        disk=full.streams[0].disk_id,
        onto=changes.backup_id,
        time=datetime(2030, 1, 1, tzinfo=UTC),
    ) as sink:
        copy(MemorySource(*disk("64k:N 100k:- 860k:0")), sink)
    made = sink.backup  # type: ignore[attr-defined]
    assert made.parent_id == changes.backup_id
    assert read_point(repository, made, made.streams[0]) == applied(content[1], "64k:N 100k:- 860k:0")


class Broken:
    """A source whose second half cannot be read."""

    size = SIZE
    max_readers = 1

    def extents(self) -> Any:
        return MemorySource(CONTENT).extents()

    def open_reader(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def read_ranges(self, ranges: Any, buffer: memoryview) -> None:
        raise PitrError("the disk is broken")


def test_a_copy_that_fails_leaves_nothing(repository: Repository, tmp_path: Path) -> None:
    places: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path / "a.raw", {}),
        (tmp_path / "a.qcow2", {}),
        (repository, {"vm": "v", "disk": "d"}),
    ]
    for where, options in places:
        for error, source in ((PitrError, Broken()), (FormatError, _cut())):
            with pytest.raises(error), open_sink(where, SIZE, **options) as sink:
                copy(source, sink)
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert repository.catalog.points() == []
    assert not stored(repository)
    # The VM is free again.
    with open_sink(repository, SIZE, vm="v", disk="d") as sink, open_source(CONTENT) as whole:
        copy(whole, sink)
    # A stream without its end stays.
    out = io.BytesIO()
    with pytest.raises(PitrError), open_sink(out, SIZE, compression="none") as sink:
        copy(Broken(), sink)
    assert b"stop" not in out.getvalue()


def _cut() -> Any:
    out = io.BytesIO()
    with open_source(CONTENT) as source, open_sink(out, SIZE, compression="none") as sink:
        copy(source, sink)
    return open_stream(io.BytesIO(out.getvalue()[:-1]))


def test_what_is_none_of_these_is_refused(repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A", "64k:B")
    wrong: list[tuple[dict[str, Any], type[PitrError]]] = [
        ({}, UsageError),
        ({"point": backup.backup_id}, UsageError),
        ({"point": backup.backup_id, "stream": "x"}, UsageError),
        ({"point": "ffffffff"}, NoSuchError),
        ({"stream": "nosuch"}, NoSuchError),
        ({"point": backup.backup_id, "disk": "nosuch"}, NoSuchError),
    ]
    for options, error in wrong:
        with pytest.raises(error), open_source(repository, **options):
            pass
    (tmp_path / "there").write_bytes(b"mine")
    nowhere: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path / "there", {}),
        (bytearray(5), {}),
        (io.BytesIO(), {"format": "qcow2"}),
        (io.BytesIO(), {"format": "rbd-diff", "incremental": True}),
        (repository, {}),
        ("nbd:nowhere", {}),
    ]
    for where, options in nowhere:
        with pytest.raises(UsageError), open_sink(where, 512, **options):
            pass
    with pytest.raises(PitrError), open_source(tmp_path / "missing"):
        pass
    with pytest.raises(FormatError), open_source(io.BytesIO(b"no stream")):
        pass
    assert (tmp_path / "there").read_bytes() == b"mine"


def test_an_unknown_option_is_refused_and_the_known_ones_are_named(repository: Repository) -> None:
    unknown: dict[str, Any] = {"compresion": "zstd"}
    with pytest.raises(TypeError, match=r"open_source\(\) has no option 'compresion': use cafile, .*stream"):
        open_source(repository, **unknown).__enter__()
    with pytest.raises(TypeError, match=r"open_sink\(\) has no option 'compresion': use cafile, .*vm"):
        open_sink(repository, SIZE, **unknown).__enter__()


def test_the_names_are_there_and_loaded_only_when_used() -> None:
    script = "import sys, pitr; assert 'numpy' not in sys.modules; from pitr import copy; assert 'numpy' in sys.modules"
    run([sys.executable, "-c", script])
    assert {"copy", "open_source", "open_sink", "Repository"} <= set(dir(pitr))
    with pytest.raises(AttributeError):
        _ = pitr.nosuch
    with pytest.raises(ImportError):
        exec("from pitr import nosuch")  # noqa: S102
