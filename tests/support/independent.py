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

from tests.support.pitr import Pitr


def apply_sparse(stream: bytes, disk: bytearray) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    """Apply a plain sparse stream to `disk`; return its meta and its extents."""
    at = 0
    meta: dict[str, Any] = {}
    extents: list[tuple[str, int, int]] = []
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


def sparse_of(
    disk: bytes,
    extents: list[tuple[str, int, int]],
    *,
    incremental: bool,
    date: str = "2020-06-30T10:00:00Z",
    **more: object,
) -> bytes:
    """A stream as ovirt-imageio's example writes it."""
    meta = {"virtual-size": len(disk), "data-size": 0, "date": date, "incremental": incremental, **more}
    body = json.dumps(meta).encode()
    parts = [b"meta %016x %016x\r\n" % (0, len(body)), body, b"\r\n"]
    for kind, start, length in extents:
        parts.append(b"%s %016x %016x\r\n" % (kind.encode(), start, length))
        if kind == "data":
            parts += [disk[start : start + length], b"\r\n"]
    return b"".join([*parts, b"stop %016x %016x\r\n" % (0, 0)])


def rbd_of(
    disk: bytes,
    records: list[tuple[str, int, int]],
    *,
    v2: bool = False,
    from_snapshot: str | None = None,
    to_snapshot: str | None = None,
) -> bytes:
    """An rbd diff as Ceph writes it."""

    def record(tag: bytes, payload: bytes) -> bytes:
        return tag + (struct.pack("<Q", len(payload)) if v2 else b"") + payload

    parts = [b"rbd diff v2\n" if v2 else b"rbd diff v1\n"]
    for tag, name in ((b"f", from_snapshot), (b"t", to_snapshot)):
        if name is not None:
            parts.append(record(tag, struct.pack("<I", len(name)) + name.encode()))
    parts.append(record(b"s", struct.pack("<Q", len(disk))))
    if v2:
        parts.append(record(b"?", b"of a later version"))
    for kind, start, length in records:
        payload = struct.pack("<QQ", start, length) + (disk[start : start + length] if kind == "w" else b"")
        parts.append(record(kind.encode(), payload))
    return b"".join([*parts, b"e"])


def virtnbdbackup_of(
    disk: bytes,
    extents: list[tuple[str, int, int]],
    *,
    incremental: bool,
    checkpoint: str,
    parent: str = "",
    lz4_request: int | None = None,
    disk_name: str = "sda",
    date: str = "2021-03-04T05:06:07.123456",
    level: int | bool = True,
) -> bytes:
    """A `.data` file of virtnbdbackup, version 1, or version 2 with an lz4 frame for each request."""
    meta = {
        "virtualSize": len(disk),
        "dataSize": 0,
        "date": date,
        "diskName": disk_name,
        "diskFormat": "qcow2",
        "checkpointName": checkpoint,
        "compressed": level if lz4_request is not None else False,
        "compressionMethod": "lz4",
        "parentCheckpoint": parent,
        "incremental": incremental,
        "streamVersion": 1 if lz4_request is None else 2,
    }
    body = json.dumps(meta).encode()
    parts = [b"meta %016x %016x\r\n" % (0, len(body)), body, b"\r\n"]
    sizes: list[object] = []
    for kind, start, length in extents:
        parts.append(b"%s %016x %016x\r\n" % (kind.encode(), start, length))
        if kind != "data":
            continue
        if lz4_request is None:
            parts.append(disk[start : start + length])
        else:
            import lz4.frame

            frames = [
                lz4.frame.compress(
                    disk[at : min(at + lz4_request, start + length)],
                    content_checksum=True,
                    block_checksum=True,
                )
                for at in range(start, start + length, lz4_request)
            ]
            parts += frames
            sizes.append(len(frames[0]) if len(frames) == 1 else {length: [len(frame) for frame in frames]})
        parts.append(b"\r\n")
    parts.append(b"stop %016x %016x\r\n" % (0, 0))
    if lz4_request is not None and level:
        listed = json.dumps(sizes).encode()
        parts += [listed, b"\r\n", b"comp %016x %016x\r\n" % (0, len(listed))]
    return b"".join(parts)


def rbd_image_of(diffs: list[bytes]) -> bytes:
    """The file of `rbd export --export-format 2` around diffs of version 2."""
    parts = [b"rbd image v2\n"]
    for tag in (b"O", b"T", b"U", b"C"):
        parts.append(tag + struct.pack("<QQ", 8, 22))
    meta = struct.pack("<I", 3) + b"key" + struct.pack("<I", 5) + b"value"
    parts.append(b"M" + struct.pack("<Q", len(meta)) + meta)
    return b"".join([*parts, b"E", b"rbd image diffs v2\n", struct.pack("<Q", len(diffs)), *diffs])


def read_only(length: int, command: Pitr, *arguments: str) -> None:
    """Read so many bytes of what `pitr` writes, and go away: that is a failure, and it has to say so."""
    with subprocess.Popen(
        [sys.executable, "-m", "pitr", *arguments],
        env={**os.environ, **command.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(length)
        process.stdout.close()
        complaint = process.stderr.read().decode()
        assert process.wait() == 1, complaint
    assert "exited before the end" in complaint and "Traceback" not in complaint
