#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore a disk from its blobs alone, with only `zstd` and Python's standard library.

    restore_blob.py IMAGE FULL.sparse.zst [INCREMENTAL.sparse.zst ...]

IMAGE becomes a raw image; an existing file is overwritten. Give the blobs of one disk, the full one first, then the
incremental ones from oldest to newest.
"""

import json
import subprocess
import sys
from typing import IO, Any

CHUNK = 1 << 20


def take(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        sys.exit("the stream ends too early")
    return data


def apply(stream: IO[bytes], image: IO[bytes], parent: str | None) -> str:
    """Write one sparse stream over `image`. Return its id, which the next stream must name as its parent."""
    meta = {}
    while (header := take(stream, 40))[:4] != b"stop":
        kind, start, length = header[:4], int(header[5:21], 16), int(header[22:38], 16)
        image.seek(start)
        if kind == b"meta":
            meta = json.loads(take(stream, length))
            if meta.get("parent-stream-id") != parent:
                sys.exit(f"a blob is missing: {meta.get('parent-stream-id')} must come after {parent}")
            image.truncate(meta["virtual-size"])
        elif kind not in (b"data", b"zero"):
            sys.exit(f"not a sparse stream: {header!r}")
        elif kind == b"data" or meta["incremental"]:  # a full stream goes into an image of zeroes
            for count in [CHUNK] * (length // CHUNK) + [length % CHUNK]:
                image.write(take(stream, count) if kind == b"data" else bytes(count))
        if kind != b"zero" and take(stream, 2) != b"\r\n":
            sys.exit("not a sparse stream")
    return str(meta["stream-id"])


def main(target: str, *blobs: str) -> None:
    stream_id = None
    with open(target, "wb") as image:  # noqa: PTH123
        for blob in blobs:
            zstd: Any = subprocess.Popen(["zstd", "-dc", "--", blob], stdout=subprocess.PIPE)
            stream_id = apply(zstd.stdout, image, stream_id)
            if zstd.stdout.read(1) or zstd.wait() != 0:  # zstd checks its checksums
                sys.exit(f"{blob} is damaged")


if __name__ == "__main__":
    main(*sys.argv[1:])
