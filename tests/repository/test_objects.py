# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects of a repository: streams that other programs can read, and a catalog that pitr can rebuild."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import stat
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from pitr.lab import Lab
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of, scribble
from tests.support.pitr import Pitr


def read_sparse_stream(stream: BinaryIO, image: BinaryIO, *, base: bool) -> tuple[dict[str, Any], int, int]:
    """Apply a stream to `image` with an independent reader. Return (meta, bytes of data, bytes of zero)."""
    meta: dict[str, Any] = {}
    data = zero = end = 0
    while True:
        header = stream.read(40)
        assert len(header) == 40 and header.endswith(b"\r\n")
        kind, start, length = header[:4], int(header[5:21], 16), int(header[22:38], 16)
        if kind == b"meta":
            meta = json.loads(stream.read(length))
            assert stream.read(2) == b"\r\n"
            continue
        if kind == b"stop":
            assert (start, length) == (0, 0) and stream.read() == b""
            return meta, data, zero
        assert start >= end and length > 0 and (base or start == end)
        end = start + length
        image.seek(start)
        if kind == b"data":
            image.write(stream.read(length))
            assert stream.read(2) == b"\r\n"
            data += length
        else:
            assert kind == b"zero"
            image.write(bytes(length))
            zero += length


def decompressed(blob: Path) -> BinaryIO:
    return io.BytesIO(subprocess.run(["zstd", "-dcq", blob], check=True, capture_output=True).stdout)


def test_zstd_alone_turns_blobs_into_sparse_streams(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    size = 10487296
    vm = make_vm(lab, size)
    disk = vm.disks[0]
    chance = random.Random(12)
    rebuilt = io.BytesIO(bytes(size))
    parent = None
    for number in range(4):
        with disk.guest() as guest:
            scribble(guest, chance, size)
        with oracle_of(lab, tmp_path) as oracle:
            point = pitr.backup(vm.name)
        said = point["disks"][0]
        blob = pitr.repository / "blobs" / disk.id / f"{said['stream_id']}.sparse.zst"
        assert blob.stat().st_size == said["stored_bytes"]
        meta, data, zero = read_sparse_stream(decompressed(blob), rebuilt, base=number > 0)
        assert (data, zero) == (said["data_bytes"], said["zero_bytes"])
        assert number > 0 or data + zero == size
        assert (meta["virtual-size"], meta["incremental"]) == (size, number > 0)
        assert meta["date"] == point["point"]
        assert (meta["stream-id"], meta["parent-stream-id"]) == (said["stream_id"], parent)
        assert rebuilt.getvalue() == oracle[disk.id].read_bytes()
        parent = said["stream_id"]
        index = sqlite3.connect(pitr.repository / "indexes" / disk.id / f"{said['stream_id']}.index.db")
        rows = index.execute("SELECT start, length, blob_offset, blob_length, digest FROM extent").fetchall()
        index.close()
        assert len(rows) == said["extents"]
        frames = [row for row in rows if row[2] is not None]
        # A frame never crosses a multiple of the frame size of the disk.
        assert all(start // MiB == (start + length - 1) // MiB for start, length, *_ in frames)
        assert sum(row[1] for row in frames) == data
    # zstd itself verifies the content checksums.
    subprocess.run(["zstd", "-tq", blob], check=True)


def test_a_rebuilt_catalog_is_identical(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    first, second = make_vm(lab, MiB, 2 * MiB), make_vm(lab, MiB, formats=("raw",))
    for number in range(3):
        for vm in (first, second):
            with vm.disks[0].guest() as guest:
                guest.write(4096 * number, b"G" * 5000)
            pitr.backup(vm.name)
    catalog = pitr.repository / "catalog.db"

    def dump() -> list[object]:
        connection = sqlite3.connect(catalog)
        # The views have all values. The numbers of VMs and disks are in the order in which the catalog met them.
        rows: list[object] = [
            sorted(connection.execute(f"SELECT * FROM {view}"), key=str)  # noqa: S608
            for view in ("point", "stream", "left_out")
        ]
        # A rebuilt catalog has its indexes in another order.
        schema = sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
        counts = [
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608
            for kind, name, _ in schema
            if kind == "table"
        ]
        connection.close()
        return [*rows, schema, counts]

    before, listed = dump(), pitr.json("list")
    assert pitr.json("catalog", "check") == {"ok": True, "points": 6, "streams": 9, "differences": []}
    catalog.unlink()
    rebuilt = pitr.json("catalog", "rebuild")
    assert (rebuilt["ok"], rebuilt["points"], rebuilt["streams"]) == (True, 6, 9)
    assert dump() == before
    assert pitr.json("list") == listed
    assert pitr.json("catalog", "check")["ok"]
    # The catalog is a cache, so this works without a rebuild too.
    catalog.unlink()
    assert pitr.json("list") == listed


def test_an_invalid_catalog_file_loses_nothing(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    catalog = pitr.repository / "catalog.db"
    catalog.write_bytes(b"no database" * 1000)
    assert pitr.json("catalog", "rebuild")["points"] == 1
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_only_the_owner_can_read_the_files(lab: Lab, pitr: Pitr) -> None:
    before = os.umask(0)
    try:
        vm = make_vm(lab, 64 * KiB)
        pitr.backup(vm.name)
    finally:
        os.umask(before)
    for path in [pitr.repository, *pitr.repository.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, f"{path}: {mode:o}"


def test_two_backups_that_overlap_in_name_only(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    """A renamed VM keeps its points; a VM with its previous name is another VM."""
    vm = make_vm(lab, MiB)
    first = pitr.backup(vm.name)
    old_name = vm.name
    with lab.engine.state.lock:
        lab.engine.state.vm(vm.id).name = f"{old_name}-renamed"
    second = pitr.backup(f"{old_name}-renamed")
    assert second["parent_id"] == first["backup_id"]
    assert [p["backup_id"] for p in pitr.json("list", vm.id)["points"]] == [
        second["backup_id"],
        first["backup_id"],
    ]


def test_points_are_restored_from_the_blobs_alone(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    size = 4 * MiB
    vm = make_vm(lab, size)
    disk = vm.disks[0]
    chance = random.Random(3)
    points, oracles = [], []
    for number in range(3):
        with disk.guest() as guest:
            scribble(guest, chance, size)
        folder = tmp_path / str(number)
        folder.mkdir()
        with oracle_of(lab, folder) as oracle:
            points.append(pitr.backup(vm.name))
        oracles.append(oracle[disk.id])
    (pitr.repository / "catalog.db").unlink()
    for lost in [*pitr.repository.glob("backups/*/*.json"), *pitr.repository.glob("indexes/*/*.index.db")]:
        lost.unlink()

    rebuilt = pitr.json("catalog", "rebuild", "--from-blobs")
    assert (rebuilt["ok"], rebuilt["points"], rebuilt["streams"]) == (True, 3, 3)
    assert pitr.json("verify")["ok"]
    back = pitr.json("list")["points"][::-1]
    for key in ("backup_id", "point", "parent_id", "checkpoint_id", "kind"):
        assert [point[key] for point in back] == [point[key] for point in points], key
    for number, (point, oracle_image) in enumerate(zip(back, oracles, strict=True)):
        image = tmp_path / f"{number}.raw"
        pitr.restore_to_file(point, image)
        assert image.read_bytes() == oracle_image.read_bytes()
    # The next backup continues the chain.
    assert pitr.backup(vm.name)["kind"] == "incremental"
