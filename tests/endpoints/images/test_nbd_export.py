# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks behind an NBD server: sizes, lost connections, servers that allow one connection."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.endpoints.images.nbd_export import NbdReader, NbdSink, NbdSource, NbdWriter
from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.errors import NbdError, UsageError

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    return path


@pytest.fixture
def url(image: Path) -> Iterator[str]:
    with QemuNbd(image, "raw", read_only=False) as server:
        yield server.url


def cut_connection(user: NbdReader | NbdWriter) -> None:
    assert user._client is not None
    user._client._wire._socket.shutdown(socket.SHUT_RDWR)


def test_a_lost_connection_is_opened_again_for_reading(url: str) -> None:
    pauses: list[float] = []
    buffer = bytearray(MIB)
    with NbdSource(url, sleep=pauses.append) as source, source.open_reader() as reader:
        reader.read_ranges([(0, 512)], memoryview(buffer)[:512])
        cut_connection(reader)
        reader.read_ranges([(0, MIB)], memoryview(buffer))
        assert buffer == b"x" * MIB
        cut_connection(reader)
        assert reader.extents().covers(MIB)
    assert len(pauses) == 2


def test_a_lost_connection_is_final_for_writing(url: str) -> None:
    """The server may have lost writes that it acknowledged and had not flushed."""
    sink = NbdSink(url)
    with sink.open_writer() as writer:
        writer.write(0, memoryview(b"y" * 512))
        cut_connection(writer)
        for _ in range(2):
            with pytest.raises(NbdError):
                writer.write(512, memoryview(b"y" * 512))
    sink.abort()


def test_a_server_that_ends_with_its_last_client_serves_the_whole_copy(image: Path, tmp_path: Path) -> None:
    """qemu-nbd without --persistent, with its default of one connection."""
    path = tmp_path / "s"
    process = subprocess.Popen(["qemu-nbd", f"--socket={path}", "--format=raw", "--fork", str(image)])
    assert process.wait() == 0
    sink = NbdSink(f"nbd+unix:///?socket={path}", MIB)
    assert sink.max_writers == 1
    for at in (0, 512 * 1024):
        with sink.open_writer() as writer:
            writer.write(at, memoryview(b"z" * (512 * 1024)))
    sink.flush()
    assert image.read_bytes() == b"z" * MIB


def test_an_export_that_is_too_small_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="1048576 bytes, but the disk has 1049088"):
        NbdSink(url, MIB + 512)


def test_a_read_only_export_is_refused(image: Path) -> None:
    with QemuNbd(image, "raw", read_only=True) as server, pytest.raises(UsageError, match="read-only"):
        NbdSink(server.url)


def test_a_larger_export_keeps_what_is_beyond_the_disk(url: str, image: Path) -> None:
    sink = NbdSink(url, 4096)
    assert sink.reads_zero is False
    with sink.open_writer() as writer:
        writer.zero(0, 4096)
        with pytest.raises(UsageError, match="outside"):
            writer.zero(4096, 512)
    sink.flush()
    assert image.read_bytes() == bytes(4096) + b"x" * (MIB - 4096)
