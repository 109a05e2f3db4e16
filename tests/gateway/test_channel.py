# SPDX-License-Identifier: GPL-2.0-or-later
"""The bounded channel between a thread and the event loop; ranges of bytes; statuses."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.errors import BusyError, CheckpointGone, EngineBusy, EngineError, FormatError, NoSuchVM, PitrError
from pitr.gateway.channel import ClientGone, Incoming, Outgoing
from pitr.gateway.failures import status_of
from pitr.gateway.ranges import MAX_RANGES, ByteRange, wanted_parts
from pitr.ovirt.engine.faults import EngineFault

_PIECES = st.lists(st.binary(max_size=300), max_size=30)


@given(pieces=_PIECES, capacity=st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_what_a_thread_writes_comes_out_in_the_loop(pieces: list[bytes], capacity: int) -> None:
    async def run() -> bytes:
        channel = Outgoing(asyncio.get_running_loop(), capacity)

        def write() -> None:
            for piece in pieces:
                # The buffer is used again.
                buffer = bytearray(piece)
                channel.write(memoryview(buffer))
                buffer[:] = bytes(len(buffer))
            channel.end()

        thread = threading.Thread(target=write)
        thread.start()
        got = bytearray()
        while (piece := await channel.read()) is not None:
            assert piece
            got += piece
        thread.join()
        return bytes(got)

    assert asyncio.run(run()) == b"".join(pieces)


@given(pieces=_PIECES, capacity=st.integers(1, 500), length=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_what_the_loop_puts_is_read_by_a_thread(pieces: list[bytes], capacity: int, length: int) -> None:
    async def run() -> bytes:
        channel = Incoming(asyncio.get_running_loop(), capacity)
        got = bytearray()

        def read() -> None:
            while part := channel.read(length):
                assert len(part) <= length
                got.extend(part)

        done = asyncio.get_running_loop().run_in_executor(None, read)
        for piece in pieces:
            await channel.put(piece)
        channel.end()
        await done
        return bytes(got)

    assert asyncio.run(run()) == b"".join(pieces)


def test_a_writer_waits_for_its_reader_and_ends_when_that_has_gone() -> None:
    async def run() -> None:
        channel = Outgoing(asyncio.get_running_loop(), 1000)
        written: list[int] = []

        def write() -> None:
            with pytest.raises(ClientGone):
                for number in range(100):
                    channel.write(bytes(500))
                    written.append(number)

        done = asyncio.get_running_loop().run_in_executor(None, write)
        await asyncio.sleep(0.1)
        assert len(written) == 2
        assert await channel.read()
        await asyncio.sleep(0.1)
        assert 2 < len(written) <= 5
        channel.close()
        await done

    asyncio.run(run())


def test_a_failure_comes_before_what_waits() -> None:
    async def run() -> None:
        channel = Outgoing(asyncio.get_running_loop())
        channel.write(b"x")
        channel.fail(PitrError("no"))
        with pytest.raises(PitrError, match="no"):
            await channel.read()

    asyncio.run(run())


def test_a_sender_waits_for_its_reader() -> None:
    async def run() -> None:
        channel = Incoming(asyncio.get_running_loop(), 1000)
        await channel.put(bytes(999))
        waiting = asyncio.create_task(channel.put(bytes(1000)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert len(channel.read(1500)) == 1500
        await waiting
        # When the client disconnects, the reader stops, wherever it waits.
        threading.Timer(0.05, lambda: channel.fail(ClientGone())).start()
        started = time.monotonic()
        with pytest.raises(ClientGone):
            while channel.read(1000):
                pass
        assert time.monotonic() - started < 5
        channel.close()
        await channel.put(bytes(5000))

    asyncio.run(run())


@given(
    size=st.integers(0, 2000),
    first=st.none() | st.integers(0, 3000),
    last=st.none() | st.integers(0, 3000),
)
def test_ranges_are_those_of_a_slice(size: int, first: int | None, last: int | None) -> None:
    whole = bytes(number % 251 for number in range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    found = wanted_parts(header, size)
    if first is None:
        expected = whole[max(0, size - last) :] if last else b""
    else:
        expected = whole[first : None if last is None else last + 1]
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert found == "all"
    elif not expected:
        assert found == "none"
    else:
        assert not isinstance(found, str)
        [part] = found
        assert whole[part.start : part.end] == expected


def test_several_ranges_come_in_their_order() -> None:
    assert wanted_parts("bytes=5-6, 0-0 ,-1,200-", 10) == [
        ByteRange(5, 7, 10),
        ByteRange(0, 1, 10),
        ByteRange(9, 10, 10),
    ]
    assert wanted_parts("bytes=20-30,40-", 10) == "none"
    assert wanted_parts("bytes=0-1,x", 10) == "all"
    assert wanted_parts("bytes=0-1,", 10) == "all"
    # What would make the server send more than the disk, or answer in thousands of parts, is refused.
    assert wanted_parts("bytes=0-,0-", 10) == "none"
    assert (
        wanted_parts("bytes=" + ",".join(["0-0"] * MAX_RANGES), 1000) == [ByteRange(0, 1, 1000)] * MAX_RANGES
    )
    assert wanted_parts("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 1000) == "none"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FormatError("x"), 400),
        (NoSuchVM("x"), 404),
        (EngineFault("x", status=404), 404),
        (EngineFault("x", status=409), 409),
        (EngineFault("x", status=500), 502),
        (EngineFault("x"), 502),
        (EngineBusy("x"), 409),
        (CheckpointGone("x"), 409),
        (EngineError("x"), 502),
        (BusyError("x"), 503),
        (PitrError("x"), 500),
        (ValueError("x"), 500),
    ],
)
def test_statuses_tell_whose_fault_it_is(error: Exception, status: int) -> None:
    assert status_of(error) == status
