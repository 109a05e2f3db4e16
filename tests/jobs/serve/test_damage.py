# SPDX-License-Identifier: GPL-2.0-or-later
"""A damaged frame is an error only for the client that reads it, and never wrong data."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from pitr.errors import NbdError
from pitr.model import Backup
from pitr.nbd.protocol import CHUNK_DATA, CHUNK_ERROR_OFFSET, EIO, READ
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.index import Index
from tests.support.points import blob_path, flip_bit, index_path
from tests.support.serving import CHAIN, MIB, RawClient, read, served, store_chain

pytestmark = pytest.mark.usefixtures("quick_disk")


def damage_frame(repository: Repository, backup: Backup, start: int) -> None:
    """Change one bit in the frame of the full that starts at `start` of the disk."""
    stream = backup.streams[0]
    with Index(index_path(repository, stream)) as index:
        row = next(row for row in index.rows() if row.start == start)
    assert row.blob_offset is not None and row.blob_length is not None
    flip_bit(blob_path(repository, stream), row.blob_offset + row.blob_length // 2)


@pytest.fixture
def damaged(repository: Repository) -> tuple[Backup, bytes]:
    """A point whose second MiB is half unchanged since the full, and the full's frame there is damaged."""
    backup, content = store_chain(repository, (CHAIN[0], "1m:- 256k:X 10225152:-"))
    damage_frame(repository, repository.catalog.points()[-1], MIB)
    return backup, content


def test_only_what_is_damaged_cannot_be_read(
    repository: Repository, damaged: tuple[Backup, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    backup, content = damaged
    with served(repository, backup) as (one,):
        for _ in range(5):
            with pytest.raises(NbdError, match="input/output error"):
                read(one.uri, MIB + 512 * 1024, 4096)
        # All other data, the newer data around it too, is unchanged.
        for start, end in ((0, MIB + 256 * 1024), (2 * MIB, len(content))):
            assert read(one.uri, start, end - start) == content[start:end]
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.getMessage().startswith("clients cannot read 1 MiB at 1048576: frame of disk ")


def test_what_comes_before_the_damage_is_sent_and_the_error_says_where(
    repository: Repository, damaged: tuple[Backup, bytes]
) -> None:
    backup, content = damaged
    with served(repository, backup) as (one,), RawClient(one.uri).go() as client:
        client.request(READ, MIB - 4096, 2 * MIB)
        got = b""
        while (chunk := client.chunk())[1] == CHUNK_DATA:
            got += chunk[3][8:]
        assert got == content[MIB - 4096 : MIB + 256 * 1024]
        flags, kind, _, payload = chunk
        assert (flags, kind) == (1, CHUNK_ERROR_OFFSET)
        assert int.from_bytes(payload[:4], "big") == EIO
        assert int.from_bytes(payload[-8:], "big") == MIB + 256 * 1024
        # The connection stays open.
        client.request(READ, 0, 10)
        assert client.chunk()[3][8:] == content[:10]


def test_a_simple_reply_with_damage_in_it_has_no_data(
    repository: Repository, damaged: tuple[Backup, bytes]
) -> None:
    backup, content = damaged
    with (
        served(repository, backup) as (one,),
        RawClient(one.uri).go(structured=False, context=False) as client,
    ):
        client.request(READ, 0, 8 * MIB)
        assert client.simple() == (EIO, 7)
        client.request(READ, 0, 10)
        assert client.simple() == (0, 7)
        assert client.receive(10) == content[:10]


def test_other_programs_copies_fail(
    repository: Repository, damaged: tuple[Backup, bytes], tmp_path: Path
) -> None:
    backup, _ = damaged
    with served(repository, backup) as (one,):
        for command in (
            ["nbdcopy", one.uri, str(tmp_path / "one")],
            ["qemu-img", "convert", "-f", "raw", "-O", "raw", one.uri, str(tmp_path / "two")],
        ):
            done = subprocess.run(command, capture_output=True, check=False)
            assert done.returncode != 0


def test_two_swapped_frames_are_not_served(repository: Repository) -> None:
    """zstd's own checksums then match."""
    backup, content = store_chain(repository, ["1m:A 1m:B 1m:C"])
    stream = backup.streams[0]
    with Index(index_path(repository, stream)) as index:
        first, second = (row for row in list(index.rows())[:2])
    assert first.blob_length == second.blob_length
    assert first.blob_offset and second.blob_offset and first.blob_length
    path = blob_path(repository, stream)
    blob = bytearray(path.read_bytes())
    one = slice(first.blob_offset, first.blob_offset + first.blob_length)
    two = slice(second.blob_offset, second.blob_offset + first.blob_length)
    blob[one], blob[two] = blob[two], blob[one]
    path.write_bytes(blob)
    with served(repository, backup) as (disk,):
        for start in (0, MIB):
            with pytest.raises(NbdError, match="the digest of its data does not match"):
                read(disk.uri, start, 512)
        assert read(disk.uri, 2 * MIB, MIB) == content[2 * MIB :]


def test_a_point_whose_chain_is_broken_is_not_served_at_all(repository: Repository) -> None:
    backup, _ = store_chain(repository)
    blob_path(repository, repository.catalog.points()[-1].streams[0]).unlink()
    with pytest.raises(StoredDamage), served(repository, backup):
        pass
