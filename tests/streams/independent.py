# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of the formats written from their descriptions alone, and pipelines as a shell makes them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli_runner import Pitr


def apply_sparse(stream: bytes, disk: bytearray) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    """Apply a plain sparse stream to `disk`; return its meta and its extents."""
    at = 0
    meta: dict[str, Any] = {}
    extents = []
    while True:
        kind, start, length = stream[at : at + 40].decode().split()
        begin, count = int(start, 16), int(length, 16)
        at += 40
        if kind == "stop":
            assert at == len(stream)
            return meta, extents
        if kind == "zero":
            disk[begin : begin + count] = bytes(count)
        else:
            body = stream[at : at + count]
            assert len(body) == count and stream[at + count : at + count + 2] == b"\r\n"
            at += count + 2
            if kind == "meta":
                meta = json.loads(body)
                size = meta["virtual-size"]
                del disk[size:]
                disk.extend(bytes(size - len(disk)))
                continue
            assert kind == "data"
            disk[begin : begin + count] = body
        extents.append((kind, begin, count))


def apply_rbd(diff: bytes, disk: bytearray) -> dict[str, Any]:
    """Apply an rbd diff, v1 or v2, to `disk`; return its metadata."""
    v2 = diff[:12] == b"rbd diff v2\n"
    assert v2 or diff[:12] == b"rbd diff v1\n"
    at = 12
    meta: dict[str, Any] = {}
    while True:
        tag = diff[at : at + 1]
        at += 1
        if tag == b"e":
            assert at == len(diff)
            return meta
        end = None
        if v2:
            (length,) = struct.unpack_from("<Q", diff, at)
            at += 8
            end = at + length
        if tag in (b"f", b"t"):
            (length,) = struct.unpack_from("<I", diff, at)
            meta[tag.decode()] = diff[at + 4 : at + 4 + length].decode()
            at += 4 + length
        elif tag == b"s":
            (size,) = struct.unpack_from("<Q", diff, at)
            meta["s"] = size
            del disk[size:]
            disk.extend(bytes(size - len(disk)))
            at += 8
        else:
            start, length = struct.unpack_from("<QQ", diff, at)
            at += 16
            assert start + length <= len(disk)
            if tag == b"w":
                disk[start : start + length] = diff[at : at + length]
                at += length
            else:
                assert tag == b"z"
                disk[start : start + length] = bytes(length)
        assert end in (None, at)


def unzstd(data: bytes) -> bytes:
    """What the real zstd makes of it."""
    return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout


def run(
    command: Pitr, *arguments: str | Path, given: bytes | Path = b"", code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    """Run `pitr` as a program between pipes; it is to end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "pitr", *map(str, arguments)],
        env={**os.environ, **command.environment},
        input=given.read_bytes() if isinstance(given, Path) else given,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    assert b"Traceback" not in done.stderr and b"a defect" not in done.stderr, done.stderr.decode()
    return done
