# SPDX-License-Identifier: GPL-2.0-or-later
"""The server with contents made for a test: its requests to them, and its reaction to their errors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pitr.errors import NbdError
from pitr.extents import ExtentMap
from pitr.nbd.client import Client, parse_url
from pitr.nbd.protocol import READ, REQUEST, REQUEST_MAGIC
from pitr.nbd.server import Export, Exports, NbdServer
from pitr.nbd.server.uris import uri
from pitr.system.process import run
from pitr.system.sockets import unix_listener
from tests.support.pitr import wait_until
from tests.support.serving import MIB, RawClient, read

SIZE = 256 * MIB


class Recording:
    """A content of sevens that records what the server asks for ahead."""

    read_ahead = 8 * MIB

    def __init__(self, extents: ExtentMap | None = None) -> None:
        self.size = SIZE
        self.asked: list[tuple[int, int]] = []
        self._extents = extents or ExtentMap.of([(0, SIZE, False)])

    def extents(self) -> ExtentMap:
        return self._extents

    def read(self, offset: int, length: int) -> Iterator[tuple[int, memoryview | None]]:
        yield length, memoryview(b"\7" * length)

    def is_ready(self, offset: int, length: int) -> bool:
        return True

    def ask(self, offset: int, length: int) -> None:
        self.asked.append((offset, length))


class Defective(Recording):
    def read(self, offset: int, length: int) -> Iterator[tuple[int, memoryview | None]]:
        raise ZeroDivisionError("a defect")


@contextmanager
def server(folder: Path, *contents: Recording) -> Iterator[list[str]]:
    exports = [Export((f"e{number}",), "", content) for number, content in enumerate(contents)]
    with unix_listener(folder / "s") as listener, NbdServer(Exports(exports), listener):
        yield [uri(listener, export.names[0]) for export in exports]


def test_who_reads_on_and_on_finds_the_next_data_ready(tmp_path: Path) -> None:
    content = Recording()
    with server(tmp_path, content) as (link,), Client(*parse_url(link)) as client:
        for start in range(0, 32 * MIB, 65536):
            client.read_into(start, memoryview(bytearray(65536)))
    # The server has asked once for all data behind the first reads, before it was read, and not far ahead.
    ends = [offset + length for offset, length in content.asked]
    assert content.asked[0][0] <= 8 * MIB
    assert [offset for offset, _ in content.asked[1:]] == ends[:-1]
    assert 32 * MIB <= ends[-1] <= 41 * MIB
    assert all(2 * MIB <= length <= 8 * MIB for _, length in content.asked)


def test_who_reads_here_and_there_has_nothing_read_ahead(tmp_path: Path) -> None:
    content = Recording()
    chance = random.Random(4)
    with server(tmp_path, content) as (link,), Client(*parse_url(link)) as client:
        places = [block * 4 * MIB for block in range(60)]
        chance.shuffle(places)
        for place in places:
            client.read_into(place, memoryview(bytearray(4096)))
    # Two of the ranges may happen to be neighbours.
    assert sum(length for _, length in content.asked) < 8 * MIB


def test_what_waits_behind_a_request_is_asked_for_meanwhile(tmp_path: Path) -> None:
    content = Recording()
    with server(tmp_path, content) as (link,), RawClient(link).go() as client:
        places = [number * 16 * MIB for number in range(10)]
        requests = (
            REQUEST.pack(REQUEST_MAGIC, 0, READ, number, place, 4096) for number, place in enumerate(places)
        )
        client.send(b"".join(requests))
        for number, place in enumerate(places):
            flags, _, handle, payload = client.chunk()
            assert (flags, handle) == (1, number)
            assert payload == place.to_bytes(8, "big") + b"\7" * 4096
    assert content.asked == [(place, 4096) for place in places[1:]]


def test_more_extents_than_fit_into_an_answer_are_asked_for_again(tmp_path: Path) -> None:
    count = SIZE // 1024
    start = np.arange(count, dtype=np.int64) * 1024
    extents = ExtentMap(start, np.full(count, 1024, np.int64), start % 2048 == 0)
    with server(tmp_path, Recording(extents)) as (link,), Client(*parse_url(link)) as client:
        told = client.extents()
        assert (told.start == extents.start).all() and (told.zero == extents.zero).all()
        assert run(["nbdinfo", "--map", "--totals", link]).split()[0] == str(SIZE // 2)


def test_a_defect_cuts_off_one_client_only_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with server(tmp_path, Defective(), Recording()) as (bad, good), Client(*parse_url(good)) as client:
        with pytest.raises(NbdError):
            read(bad, 0, 512)
        wait_until(lambda: caplog.records, "the defect is told")
        assert "a defect in pitr" in caplog.text
        client.read_into(0, memoryview(bytearray(512)))


def test_names_that_two_exports_have_lead_to_the_first() -> None:
    one, two = Export(("a", "b"), "", Recording()), Export(("b", "c"), "", Recording())
    exports = Exports([one, two])
    assert [exports.named(name) for name in (b"a", b"b", b"c", b"d")] == [one, one, two, None]
    assert exports.listed() == [(b"a", one), (b"b", two)]
