# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums are those that the unmodified imageio library computes of the same content."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ovirt_imageio import client

from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.ovirt.imageio.checksum import BLOCK_SIZE, checksum
from pitr.system.process import require

MiB = 1 << 20


def _content(size: int) -> bytes:
    chance = random.Random(size)
    content = bytearray(size)
    for _ in range(12):
        start = chance.randrange(size)
        length = min(size - start, chance.randrange(1, 300_000))
        content[start : start + length] = chance.randbytes(length)
    return bytes(content)


@pytest.mark.parametrize("size", [512, 4096 + 512, BLOCK_SIZE, BLOCK_SIZE + 512, 10487296, 3 * BLOCK_SIZE])
def test_a_checksum_is_that_of_the_imageio_library(tmp_path: Path, size: int) -> None:
    require("qemu-nbd")
    image = tmp_path / "image.raw"
    content = _content(size)
    image.write_bytes(content)
    expected = client.checksum(str(image), algorithm="blake2b")
    assert expected["block_size"] == BLOCK_SIZE
    assert checksum(MemorySource(content)) == expected["checksum"]
    with RawFileSource(image) as source:
        assert checksum(source, workers=3) == expected["checksum"]


def test_a_sparse_image_and_one_that_is_longer_by_zeroes(tmp_path: Path) -> None:
    content = _content(9 * MiB)
    image = tmp_path / "image.raw"
    with image.open("wb") as file:
        for at in range(0, len(content), 65536):
            piece = content[at : at + 65536]
            if any(piece):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))
    with RawFileSource(image) as source:
        assert checksum(source) == checksum(MemorySource(content))
        assert checksum(source, 20 * MiB) == checksum(MemorySource(content + bytes(11 * MiB)))
        with pytest.raises(ValueError, match="does not fit"):
            checksum(source, MiB)
