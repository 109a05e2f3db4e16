# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import`: streams of independent writers become points; hostile streams are refused."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.model import Backup
from pitr.repository import Repository
from tests.support.independent import rbd_of, run, sparse_of, virtnbdbackup_of
from tests.support.pitr import Pitr
from tests.support.points import Writer, applied, disk, flip_bit

KiB = 1 << 10
FULL = "1m:A 64k:0 1m:B 512:C"
CHANGES = "64k:- 64k:X 128k:0 1m:- 512:D"


def extents(text: str, *, data: str = "data", zero: str = "zero") -> list[tuple[str, int, int]]:
    return [(zero if is_zero else data, start, length) for start, length, is_zero in disk(text)[1]]


def restored(command: Pitr, point: Any, folder: Path) -> bytes:
    path = folder / f"{point['backup_id']}.raw"
    command("restore", "--point", point["backup_id"], "--to-file", path)
    return path.read_bytes()


def imported(command: Pitr, *arguments: str | Path) -> list[Any]:
    points: list[Any] = command.json("import", *arguments)["imported"]
    return points


def nothing_is_kept(command: Pitr) -> None:
    assert command.json("list")["points"] == []
    assert not [path for path in command.repository.rglob("*") if path.suffix in (".zst", ".db-journal")]
    assert command.json("verify")["ok"]


def test_a_stream_on_a_damaged_point_is_stored_and_told(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    writer = Writer(repository)
    writer.add(FULL)
    writer.add(CHANGES)
    full, newer = writer.backups
    stream = tmp_path / "stream"
    command("export", "--point", newer.backup_id, "--since", full.backup_id, "--to", stream)
    command("forget", newer.backup_id)
    [blob] = (path for path in command.repository.rglob("*.sparse.zst"))
    flip_bit(blob, blob.stat().st_size // 2)
    command("verify", code=3)
    done = command("import", stream, "--onto", full.backup_id, "--output", "json")
    [point] = done.json["imported"]
    assert point["damaged"] and "DAMAGED" in done.stderr and "warning" in done.stderr
    assert "DAMAGED" in command("list").stdout


def test_what_was_exported_comes_back_as_the_same_chain(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    writer = Writer(repository)
    writer.add(FULL)
    writer.add(CHANGES)
    writer.add("64k:0 1m:- 4k:Z")
    files: list[Path] = []
    before: Backup | None = None
    for backup in writer.backups:
        files.append(tmp_path / backup.backup_id)
        since = ("--since", before.backup_id) if before else ()
        command("export", "--point", backup.backup_id, *since, "--to", files[-1])
        before = backup
    other = command.with_environment(PITR_REPO=str(tmp_path / "other"))
    other("init")
    points = imported(other, *files)
    assert [point["backup_id"] for point in points] == [backup.backup_id for backup in writer.backups]
    assert [point["kind"] for point in points] == ["full", "incremental", "incremental"]
    assert points[2]["parent_id"] == points[1]["backup_id"]
    for point, backup in zip(points, writer.backups, strict=True):
        assert point["vm"] == {"id": backup.vm.id, "name": backup.vm.name} and point["mode"] == "imported"
        assert point["disks"][0]["disk_id"] == backup.streams[0].disk_id
        assert restored(other, point, tmp_path) == restored(
            command, {"backup_id": backup.backup_id}, tmp_path / "repository"
        )
    assert other.json("verify", "--full")["ok"]
    rebuilt = other.json("catalog", "rebuild")
    assert rebuilt


def test_blobs_of_another_repository_are_streams_with_their_ids(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    writer = Writer(repository)
    full, changes = writer.add(FULL), writer.add(CHANGES)
    other = command.with_environment(PITR_REPO=str(tmp_path / "other"))
    other("init")
    blobs = [
        next((repository.path / "blobs").rglob(f"{backup.streams[0].stream_id}*.zst"))
        for backup in (full, changes)
    ]
    complaint = run(other, "import", "-", "--vm", "web", "--disk", "d", given=blobs[1], code=2).stderr
    assert b"Import that stream first" in complaint
    # The blobs of the test support name no VM and no disk.
    first = imported(other, blobs[0], "--vm", "web", "--disk", "d")[0]
    done = run(other, "import", "-", "--vm", "web", "--disk", "d", "--output", "json", given=blobs[1])
    second = other.json("list")["points"][0]
    assert b'"imported"' in done.stdout and second["parent_id"] == first["backup_id"]
    assert second["disks"][0]["stream_id"] == changes.streams[0].stream_id
    assert restored(other, second, tmp_path) == applied(disk(FULL)[0], CHANGES)
    again = other.json("import", *blobs, "--vm", "web", "--disk", "d")
    assert again["imported"] == [] and [point["backup_id"] for point in again["known"]] == [
        first["backup_id"],
        second["backup_id"],
    ]
    assert "in the repository already" in other("import", blobs[0], "--vm", "web2", code=2).complaint
    assert len(other.json("list")["points"]) == 2


def test_streams_of_the_imageio_example(command: Pitr, tmp_path: Path) -> None:
    before, after = bytes(disk(FULL)[0]), bytes(applied(disk(FULL)[0], CHANGES))
    full = sparse_of(before, extents(FULL), incremental=False, date="2020-06-29T22:00:00")
    changes = sparse_of(after, extents(CHANGES), incremental=True, date="2020-06-30T22:00:00")
    path = tmp_path / "stream"
    path.write_bytes(full)
    command("import", path, code=2)
    command("import", path, "--vm", "web1", code=2)
    run(command, "import", "-", "--vm", "web1", "--disk", "system", given=full)
    point = command.json("list", "web1")["points"][0]
    assert point["reason"] == "imported from a stream (sparse)"
    assert "without a zone" in point["disks"][0]["note"]
    assert "without a zone" in command("show", point["backup_id"]).stdout
    # It does not name its parent, and pitr does not guess one.
    done = run(command, "import", "-", "--vm", "web1", "--disk", "system", given=changes, code=2)
    assert b"--onto" in done.stderr
    zstd = subprocess.run(["zstd", "-c"], input=changes, capture_output=True, check=True).stdout
    run(
        *(command, "import", "-", "--vm", "web1", "--disk", "system", "--onto", point["backup_id"]),
        given=zstd,
    )
    newer, older = command.json("list", "web1")["points"]
    assert newer["parent_id"] == older["backup_id"]
    assert restored(command, older, tmp_path) == before
    assert restored(command, newer, tmp_path) == after
    # pitr imports files in the order of the command line.
    paths = [tmp_path / "full", tmp_path / "changes"]
    for path, stream in zip(paths, (full, changes), strict=True):
        path.write_bytes(stream)
    points = imported(command, *paths, "--vm", "web2", "--disk", "system")
    assert restored(command, points[1], tmp_path) == after


@pytest.mark.parametrize("v2", [False, True])
def test_a_chain_of_rbd_diffs(command: Pitr, tmp_path: Path, v2: bool) -> None:
    texts = [FULL, CHANGES, "1m:- 64k:0 4k:Q", "2m:- 64k:R"]
    content = bytearray()
    paths: list[Path] = []
    contents: list[bytes] = []
    for number, text in enumerate(texts):
        content = applied(content, text)
        contents.append(bytes(content))
        records = [one for one in extents(text, data="w", zero="z") if number or one[0] == "w"]
        paths.append(tmp_path / f"{number}.diff")
        names = {"from_snapshot": f"s{number - 1}" if number else None, "to_snapshot": f"s{number}"}
        paths[-1].write_bytes(rbd_of(bytes(content), records, v2=v2, **names))
    where = ("--vm", "ceph", "--disk", "image", "--format", "rbd-diff")
    times = [word for day in (1, 2, 3) for word in ("--time", f"2021-01-0{day}T00:00Z")]
    points = imported(command, *paths[:3], *where, *times)
    assert [point["point"] for point in points] == [f"2021-01-0{day}T00:00:00Z" for day in (1, 2, 3)]
    assert [point["checkpoint_id"] for point in points] == ["s0", "s1", "s2"]
    points += imported(command, paths[3], *where)
    assert "time of the import" in points[3]["disks"][0]["note"]
    for point, expected in zip(points, contents, strict=True):
        assert restored(command, point, tmp_path) == expected
    # A missing link of a chain is an error.
    gap = tmp_path / "gap.diff"
    gap.write_bytes(rbd_of(contents[0], [], v2=v2, from_snapshot="s17", to_snapshot="s18"))
    assert "s17" in command("import", gap, *where, code=2).complaint
    # pitr reads the diffs that it writes, and so do Ceph's tools.
    for number, how in enumerate(("rbd-diff", "rbd-diff-v2")):
        out = tmp_path / f"{how}.out"
        command("export", "--point", points[2]["backup_id"], "--format", how, "--to", out)
        again = imported(command, out, "--vm", f"again{number}", "--disk", "image")[0]
        assert restored(command, again, tmp_path) == contents[2]


@pytest.mark.parametrize("lz4_request", [None, 64 * KiB, 32 << 20])
def test_files_of_virtnbdbackup(command: Pitr, tmp_path: Path, lz4_request: int | None) -> None:
    before = random.Random(5).randbytes(300 * KiB) + bytes(100 * KiB) + b"x" * 300 * KiB
    after = bytearray(before)
    after[64 * KiB : 256 * KiB] = random.Random(6).randbytes(192 * KiB)
    parts = [("data", 0, 300 * KiB), ("zero", 300 * KiB, 100 * KiB), ("data", 400 * KiB, 300 * KiB)]
    full = virtnbdbackup_of(
        before, parts, incremental=False, checkpoint="virtnbdbackup.0", lz4_request=lz4_request
    )
    changes = virtnbdbackup_of(
        bytes(after),
        [("data", 64 * KiB, 192 * KiB)],
        incremental=True,
        checkpoint="virtnbdbackup.1",
        parent="virtnbdbackup.0",
        date="2021-03-05T05:06:07",
        lz4_request=lz4_request,
    )
    paths = {"full": full, "changes": changes}
    for name, stream in paths.items():
        (tmp_path / name).write_bytes(stream)
    command("import", tmp_path / "changes", "--vm", "old", code=2)
    command("import", tmp_path / "full", "--vm", "old")
    run(command, "import", "-", "--vm", "old", given=changes)
    newer, older = command.json("list", "old")["points"]
    assert older["disks"][0]["name"] == "sda"
    assert "became zero" not in older["disks"][0]["note"] and "became zero" in newer["disks"][0]["note"]
    assert restored(command, older, tmp_path) == before
    assert restored(command, newer, tmp_path) == after
    # A stream that is truncated anywhere, or has bytes after its end, is refused.
    for length in (*range(0, len(full), max(1, len(full) // 6)), len(full) - 1):
        damaged = tmp_path / "damaged"
        damaged.write_bytes(full[:length])
        assert command("import", damaged, "--vm", "new", code=1).complaint
    damaged.write_bytes(full + b"\0")
    assert command("import", damaged, "--vm", "new", code=1).complaint
    assert {point["vm"]["name"] for point in command.json("list")["points"]} == {"old"}


def _hostile() -> dict[str, bytes]:
    content = bytes(disk(FULL)[0])
    good = sparse_of(content, extents(FULL), incremental=False)
    wrong: dict[str, bytes] = {
        "nothing": b"",
        "text": b"hello, world\n" * 10,
        "half a header": good[:20],
        "half a meta": good[:60],
        "cut in data": good[: len(good) // 2],
        "no stop": good[:-40],
        "half a stop": good[:-1],
        "more after the end": good + b"x",
        "twice": good + good,
        "overlap": sparse_of(
            content, [("data", 0, len(content)), ("data", 512, len(content) - 512)], incremental=False
        ),
        "out of order": sparse_of(content, extents(FULL)[::-1], incremental=False),
        "a gap": sparse_of(content, extents(FULL)[1:], incremental=False),
        "ends early": sparse_of(content, extents(FULL)[:-1], incremental=False),
        "beyond the end": sparse_of(content, [("zero", 0, len(content) + 512)], incremental=False),
        "huge": sparse_of(content, [("zero", 0, 1 << 63)], incremental=False),
        "empty extent": sparse_of(content, [("zero", 0, 0), ("zero", 0, len(content))], incremental=False),
        "meta claims a gigabyte": b"meta %016x %016x\r\n" % (0, 1 << 30) + bytes(1000),
        "rbd without size": b"rbd diff v1\ne",
        "rbd cut": rbd_of(content, [("w", 0, len(content))])[:-1],
        "rbd beyond": rbd_of(content, [("z", len(content), 1)]),
        "rbd overlap": rbd_of(content, [("w", 0, 1024), ("w", 512, 1024)]),
        "rbd v3": b"rbd diff v3\n" + bytes(100),
        "rbd huge name": b"rbd diff v1\nf" + b"\xff" * 4 + bytes(100),
        "rbd unknown record": b"rbd diff v1\ns" + bytes(8) + b"Q",
        "rbd v2 endless record": b"rbd diff v2\n?" + b"\xff" * 8 + bytes(100),
        "zstd of text": b"\x28\xb5\x2f\xfd" + b"not zstd" * 10,
    }
    packed = subprocess.run(["zstd", "-c"], input=good, capture_output=True, check=True).stdout
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 1
    return {**wrong, "zstd cut": packed[:-6], "zstd flipped": bytes(flipped)}


@pytest.mark.parametrize("name", sorted(_hostile()))
def test_hostile_streams_leave_nothing(command: Pitr, tmp_path: Path, name: str) -> None:
    path = tmp_path / "stream"
    path.write_bytes(_hostile()[name])
    result = command("import", path, "--vm", "v", "--disk", "d", code=1)
    assert result.complaint
    nothing_is_kept(command)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_stream_is_noticed_or_makes_another_whole_stream(
    command: Pitr, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytes(disk("4k:A 4k:0 4k:B")[0])
    stream = bytearray(
        data.draw(
            st.sampled_from(
                [
                    sparse_of(content, extents("4k:A 4k:0 4k:B"), incremental=False),
                    rbd_of(content, [("w", 0, 4096), ("z", 4096, 4096), ("w", 8192, 4096)]),
                    rbd_of(content, [("w", 0, 4096), ("w", 8192, 4096)], v2=True),
                ]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(stream) - 1))
        stream[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "stream"
    path.write_bytes(stream)
    arguments = ("import", str(path), "--vm", "v", "--disk", "d")
    try:
        result = command(*arguments)
    except AssertionError as error:
        result = error.args[0]
        assert result.code in (1, 2), result
        assert "a defect" not in result.stderr and "Traceback" not in result.stderr


def test_an_interrupted_import_counts_the_imported_files(command: Pitr, tmp_path: Path) -> None:
    content = bytes(disk(FULL)[0])
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(sparse_of(content, extents(FULL), incremental=False))
    bad.write_bytes(good.read_bytes()[:-1])
    result = command("import", good, bad, "--vm", "v", "--disk", "d", code=1)
    assert "1 of 2 files were imported" in result.stderr
    assert len(command.json("list")["points"]) == 1
