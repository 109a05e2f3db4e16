# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure `pitr verify`: the full level beside zstd -t and b3sum of the same blobs, the quick one with many points.

The many points are generated: each has a blob and an index of its own, with one small frame and one zero range.
`python bench/verify.py --points 100000` makes so many; `--bucket` puts them into a simulated S3 server (moto).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chains
import disks
import measure
import scale
import serve
from measure import MIB, Result, Size

GOAL_FULL = 1.1
GOAL_QUICK_S = 30.0
#: The time limit is of so many points.
GOAL_POINTS = 100_000
GOAL_MEMORY = 1.1
_POINTS_OF_A_VM = 365
_DISK_BYTES = 1 << 30


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder:
        return [*_full(folder, size), *_quick(folder, 1000 if size.quick else 20_000)]


# The full level


def _full(folder: Path, size: Size) -> list[Result]:
    from pitr.repository import Repository

    image = folder / "disk.raw"
    disks.real_disk(image, min(size.disk_bytes, measure.GIB))
    with Repository.create(folder / "r") as repository:
        chain = chains.make_chain(repository, image, 0)
        stream = chain.newest[1]
        parts = serve._parts(repository, stream, folder)
        blob = serve._blob(repository, stream)
    image.unlink()
    cpu_s: dict[str, list[float]] = {"pitr": [], "zstd and b3sum": []}

    def pitr() -> float:
        ran = measure.run_python(Path(__file__), "--verify", folder / "r", "full")
        said = json.loads(ran.output)
        cpu_s["pitr"].append(said["cpu_s"])
        return float(said["wall_s"])

    def peers() -> float:
        before = os.times()
        start = time.perf_counter()
        checks = [subprocess.Popen(["zstd", "-tq", str(part)]) for part in parts]
        assert not any(check.wait() for check in checks)
        assert not subprocess.run([*_b3sum(), str(blob)], stdout=subprocess.DEVNULL, check=True).returncode
        wall_s = time.perf_counter() - start
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        cpu_s["zstd and b3sum"].append(spent)
        return wall_s

    samples = measure.in_turn(size.runs, {"pitr": pitr, "zstd and b3sum": peers})
    name = f"full verify of {stream.data_bytes / 1e6:.0f} MB"
    return [
        measure.compared(name, samples, "pitr", "zstd and b3sum", goal=GOAL_FULL),
        measure.compared(f"{name}: CPU", cpu_s, "pitr", "zstd and b3sum", goal=GOAL_FULL),
    ]


def _b3sum() -> list[str]:
    """Return the command that computes a digest: b3sum on all cores, or what does the same here."""
    script = "import sys, blake3; blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(sys.argv[1])"
    return [sys.executable, "-c", script]


# The quick level


def generate(folder: Path, points: int) -> None:
    """Create a repository of `points` points of 365 a VM with whole, but small streams."""
    from pitr.model import StoredObject
    from pitr.repository import Repository, names, record, stream_sink
    from pitr.repository.blob import BlobWriter, Compressor, digest_of

    with Repository.create(folder) as repository:
        path = repository.catalog_path
    path.unlink(missing_ok=True)
    data = os.urandom(4096)
    frame, digest = Compressor().compress(data), digest_of(data)
    template = folder / "template"
    made = {kind: _index(template, kind, frame, digest) for kind in ("full", "incremental")}
    done = 0
    for number in range(-(-points // _POINTS_OF_A_VM)):
        for backup in scale.history(number, min(_POINTS_OF_A_VM, points - done)):
            done += 1
            streams = []
            for stream in backup.streams:
                new = stream_sink.NewStream(
                    stream.stream_id,
                    backup.backup_id,
                    stream.disk_id,
                    stream.name,
                    stream.kind,
                    None,
                    stream.parent_stream_id,
                    stream.settings,
                )
                meta = stream_sink.blob_meta(
                    new, backup.vm, _DISK_BYTES, 4096, backup.point, None, parent_id=backup.parent_id
                )
                blob = io.BytesIO()
                writer = BlobWriter(blob.write, meta)
                offset = writer.add_data(0, 4096, frame)
                writer.add_zero(4096, _DISK_BYTES - 4096)
                stored = StoredObject(0, writer.finish())
                stored = replace(stored, size=writer.size)
                content = made[stream.kind.value](stream, backup.backup_id, stored, offset, len(frame))
                described = StoredObject(len(content), digest_of(content).hex())
                for name, written in (
                    (names.blob(stream.disk_id, stream.stream_id), blob.getvalue()),
                    (names.index(stream.disk_id, stream.stream_id), content),
                ):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(written)
                streams.append(
                    replace(
                        stream,
                        size=_DISK_BYTES,
                        data_bytes=4096,
                        zero_bytes=_DISK_BYTES - 4096,
                        extents=2,
                        blob=stored,
                        index=described,
                        index_copy=None,
                    )
                )
            name = names.record(backup.vm.id, backup.point, backup.backup_id)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(
                record.encode(replace(backup, streams=tuple(streams), configuration=None))
            )
    template.unlink()
    # In a process of its own, because it takes more memory than a check.
    measure.run_python(Path(__file__), "--rebuild", folder)


def _index(path: Path, kind: str, frame: bytes, digest: bytes):  # type: ignore[no-untyped-def]
    """Return a function that makes the index of another stream: it replaces ids of the same length."""
    from pitr.repository import index

    ids = [str(uuid.UUID(int=number, version=4)) for number in range(1, 5)]
    blob_digest, blob_size, offset = "d" * 64, 0x41424344, 0x4546
    path.unlink(missing_ok=True)
    writer = index.IndexWriter(path)
    writer.add(
        [
            index.IndexRow(0, 4096, offset, len(frame), digest),
            index.IndexRow(4096, _DISK_BYTES - 4096, None, None, None),
        ]
    )
    parent = ids[3] if kind == "incremental" else None
    writer.finish(
        index.StreamRow(ids[0], ids[1], ids[2], kind, _DISK_BYTES, parent, 1 << 20),
        [index.PartRow(index.OWN, ids[2], ids[0], blob_size, blob_digest)],
    )
    content = path.read_bytes()

    def made(stream, backup_id, blob, at, length):  # type: ignore[no-untyped-def]
        changed = content.replace(ids[0].encode(), stream.stream_id.encode())
        changed = changed.replace(ids[1].encode(), backup_id.encode())
        changed = changed.replace(ids[2].encode(), stream.disk_id.encode())
        if parent is not None:
            changed = changed.replace(parent.encode(), stream.parent_stream_id.encode())
        changed = changed.replace(blob_digest.encode(), blob.digest.encode())
        assert changed.count(b"ABCD") == 1
        changed = changed.replace(b"ABCD", blob.size.to_bytes(4, "big"))
        assert changed.count(b"EF") == 1
        return changed.replace(b"EF", at.to_bytes(2, "big"))

    return made


def _quick(folder: Path, points: int, *, bucket: bool = False) -> list[Result]:
    place = folder / "many"
    start = time.perf_counter()
    generate(place, points)
    print(f"generated {points:,} points in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    small = folder / "few"
    generate(small, points // 10)
    with _in_bucket(place, small) if bucket else contextlib.nullcontext((str(place), str(small))) as places:
        many, few = (
            json.loads(measure.run_python(Path(__file__), "--verify", place, "quick").output)
            for place in places
        )
    assert many["points"] == points
    where = "a bucket" if bucket else "a folder"
    name = f"quick verify of {points:,} points in {where}"
    goal_s = GOAL_QUICK_S * points / GOAL_POINTS
    return [
        Result(name, many["wall_s"], goal_s, "s", 1.0, f"30 s for {GOAL_POINTS:,}"),
        Result(f"{name}: CPU", many["cpu_s"], goal_s, "s", None, f"30 s for {GOAL_POINTS:,}"),
        Result(
            f"{name}: memory", many["peak"] / MIB, few["peak"] / MIB, "MiB", GOAL_MEMORY, "a tenth of them"
        ),
    ]


@contextlib.contextmanager
def _in_bucket(*places: Path) -> Iterator[list[str]]:
    """Upload repositories to a simulated server, and yield their URLs."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.support import s3

    address = s3.server()
    os.environ.update(
        AWS_ENDPOINT_URL_S3=address,
        AWS_ACCESS_KEY_ID=s3.KEY,
        AWS_SECRET_ACCESS_KEY=s3.SECRET,
        AWS_REGION="us-east-1",
    )
    client, urls = s3.client(address), []
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and path.relative_to(place).parts[0] not in {"locks", "tmp", "catalog.db"}:
                client.upload_file(str(path), s3.BUCKET, f"{place.name}/{path.relative_to(place)}")
        urls.append(f"s3://{s3.BUCKET}/{place.name}")
    yield urls


def _verify(where: str, level: str) -> None:
    """Verify a repository as the command does, and print what it took."""
    from pitr.cli import repository_location
    from pitr.jobs.verify.processes import checks_elsewhere, template_for_checks
    from pitr.jobs.verify.stored_data import Scope, verify
    from pitr.repository import Repository

    location = repository_location.reachable(repository_location.parsed(where), None)
    if os.environ.get("PROFILE"):
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
    start, before_s = time.perf_counter(), _cpu_s()
    with (
        template_for_checks(quick=level == "quick") as template,
        Repository.open(location) as repository,
        checks_elsewhere(template, repository) as elsewhere,
    ):
        verified = verify(repository, Scope(), level, elsewhere=elsewhere)  # type: ignore[arg-type]
    wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - before_s
    if os.environ.get("PROFILE"):
        profile.disable()
        profile.dump_stats(os.environ["PROFILE"])
    assert verified.ok, verified.damage[0]
    print(
        json.dumps(
            {"wall_s": wall_s, "cpu_s": cpu_s, "points": verified.points, "peak": measure.peak_bytes()}
        )
    )


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    return sum(os.times()[:4])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, help="only the quick level, with so many points")
    parser.add_argument("--bucket", action="store_true", help="in a simulated S3 server")
    parser.add_argument("--generate", metavar="FOLDER", type=Path, help="only generate a repository")
    parser.add_argument("--rebuild", help=argparse.SUPPRESS)
    parser.add_argument("--verify", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rebuild:
        from pitr.repository import Repository

        with Repository.open(Path(given.rebuild)) as repository:
            repository.rebuild_catalog()
    elif given.verify:
        _verify(*given.verify)
    elif given.generate:
        generate(given.generate, given.points or 1000)
    elif given.points:
        with measure.folder() as folder:
            print(measure.table(_quick(folder, given.points, bucket=given.bucket)))
    else:
        print(measure.table(benchmark(measure.FULL)))


if __name__ == "__main__":
    _main()
