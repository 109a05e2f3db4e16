# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams to and from NBD servers that nbdcopy, libnbd's program, reads and writes."""

from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path

from pitr import copy, open_sink, open_source
from pitr.endpoints.images.qemu_nbd import QemuNbd

MiB = 1 << 20
SIZE = 9 * MiB + 512


def _content() -> bytes:
    content = bytearray(SIZE)
    chance = random.Random(7)
    content[MiB : 2 * MiB + 300] = chance.randbytes(MiB + 300)
    content[-1000:] = chance.randbytes(1000)
    return bytes(content)


def _uri(server: QemuNbd) -> str:
    return server.url.replace("nbd:unix:", "nbd+unix:///?socket=")


def test_nbdcopy_writes_what_a_stream_is_made_of_and_reads_what_it_is_restored_to(tmp_path: Path) -> None:
    content = _content()
    (tmp_path / "content").write_bytes(content)
    for name in ("from", "to"):
        with (tmp_path / name).open("wb") as image:
            image.truncate(SIZE)
    stream = io.BytesIO()
    with QemuNbd(tmp_path / "from", "raw", read_only=False) as server:
        subprocess.run(["nbdcopy", "--flush", str(tmp_path / "content"), _uri(server)], check=True)
        with open_source(server.url) as source, open_sink(stream, source.size) as sink:
            copy(source, sink)
    assert len(stream.getvalue()) < 2 * MiB
    stream.seek(0)
    with QemuNbd(tmp_path / "to", "raw", read_only=False) as server:
        with (
            open_source(stream) as restored,
            open_sink(server.url, restored.size, reads_zero=True) as target,
        ):
            copy(restored, target)
        subprocess.run(["nbdcopy", _uri(server), str(tmp_path / "read")], check=True)
    assert (tmp_path / "read").read_bytes() == content
