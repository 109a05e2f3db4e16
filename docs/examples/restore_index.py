#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore a disk from its extent indexes, with only `zstd` and Python's standard library.

    restore_index.py REPOSITORY IMAGE INDEX [INDEX ...]

IMAGE becomes a raw image; an existing file is overwritten. Give the index of the oldest stream first, then those of the
streams based on it. A virtual full needs only its own index: it names the blobs with its data. They are searched below
the folder REPOSITORY. The records there are read only if a virtual full stands for a stream that is gone.
"""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import IO

CHUNK = 1 << 20


def stands_for_parent(repository: Path, virtual: str, child: str) -> bool:
    """Return whether the backup `virtual` stands for the backup that `child` is based on."""
    records = {}
    for path in repository.glob("backups/*/*.json"):
        record = json.loads(path.read_bytes())
        records[record["backup_id"]] = record
    parent = records.get(child, {}).get("parent_id")
    return parent is not None and records.get(virtual, {}).get("stands_for") == parent


def apply(
    repository: Path, index: sqlite3.Connection, image: IO[bytes], parent: tuple[str, str] | None
) -> tuple[str, str]:
    """Write the disk of one index over `image`.

    Return the ids of its stream and its backup, which the next one is based on.
    """
    stream_id, backup_id, kind, size, base = index.execute(
        "SELECT stream_id, backup_id, kind, size, parent_stream_id FROM stream"
    ).fetchone()
    if base != (parent and parent[0]) and not (
        base and parent and stands_for_parent(repository, parent[1], backup_id)
    ):
        sys.exit(
            f"an index is missing: the one of stream {base} must come before the one of stream {stream_id}"
        )
    image.truncate(size)
    blobs = {}
    for number, part in index.execute("SELECT number, stream_id FROM part"):
        path = next(repository.rglob(f"{part}.sparse.zst"), None)
        blobs[number] = (
            path.open("rb") if path is not None else sys.exit(f"the blob of stream {part} is missing")
        )
    rows = (
        "SELECT start, length, part, blob_offset, blob_length, frame_length, skip FROM extent ORDER BY start"
    )
    for start, length, number, offset, stored, frame_length, skip in index.execute(rows):
        image.seek(start)
        if number is None:
            if kind == "incremental":  # a full goes into an image of zeroes
                for count in [CHUNK] * (length // CHUNK) + [length % CHUNK]:
                    image.write(bytes(count))
            continue
        blobs[number].seek(offset)
        frame = subprocess.run(
            ["zstd", "-dc"], input=blobs[number].read(stored), capture_output=True, check=True
        ).stdout
        if len(frame) != frame_length:
            sys.exit(f"the frame of the range at {start} is damaged")
        image.write(frame[skip : skip + length])
    for blob in blobs.values():
        blob.close()
    return str(stream_id), str(backup_id)


def main(repository: str, target: str, *indexes: str) -> None:
    parent = None
    with Path(target).open("wb") as image:
        for path in indexes:
            index = sqlite3.connect(f"file:{Path(path).absolute().as_uri()[7:]}?immutable=1", uri=True)
            parent = apply(Path(repository), index, image, parent)
            index.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
