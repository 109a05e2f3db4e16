# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one copy in a process of its own, to measure its CPU time and memory: `one_copy.py WHAT ARGUMENT…`.

The benchmarks call it. It prints a JSON object; its wall seconds do not include the start of Python.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime


def pitr_backup(url: str, cafile: str, folder: str, level: str, context: str) -> dict[str, object]:
    """Copy a disk from the daemon to a new stream in a repository, as `pitr backup` does."""
    from pitr.copier import copy
    from pitr.model import DiskSettings, Kind
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
    from pitr.repository.store import PosixStore
    from pitr.repository.stream_sink import NewStream, StreamSink

    path = Path(folder)
    path.mkdir(exist_ok=True)
    store = PosixStore(path)
    source = ImageioSource(ImageioAddress(url, cafile=cafile), context)  # type: ignore[arg-type]
    kind = Kind.INCREMENTAL if context == "dirty" else Kind.FULL
    ids = [str(uuid.uuid4()) for _ in range(3)]
    new = NewStream(ids[0], ids[1], ids[2], "disk", kind, None, None, DiskSettings())
    start, before_s = time.perf_counter(), _cpu_s()
    meta = {"virtual-size": source.size, "incremental": kind is Kind.INCREMENTAL}
    with StreamSink(store, new, source.size, meta, level=int(level)) as sink:
        copy(source, sink)
        stream = sink.stream
    store.close()
    return {
        "wall_s": time.perf_counter() - start,
        "cpu_s": _cpu_s() - before_s,
        "stored": stream.blob.size + stream.index.size,
        "data": source.extents().data_bytes,
        "rows": stream.extents,
    }


def pitr_compared(url: str, cafile: str, repository: str, backup_id: str) -> dict[str, object]:
    """Read a disk whole, and store what differs from a point, as `pitr backup` does with a raw disk."""
    from pitr.copier import copy
    from pitr.endpoints.points.comparing import ComparingSink, open_compared
    from pitr.model import DiskSettings, Kind
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
    from pitr.repository import Repository
    from pitr.repository.stream_sink import NewStream

    ids = [str(uuid.uuid4()) for _ in range(2)]
    with Repository.open(Path(repository)) as opened:
        backup = opened.record_of(backup_id)
        start, before_s = time.perf_counter(), _cpu_s()
        source = ImageioSource(ImageioAddress(url, cafile=cafile), "zero")
        parent = backup.streams[0]
        new = NewStream(
            ids[0],
            ids[1],
            parent.disk_id,
            "disk",
            Kind.INCREMENTAL,
            "raw",
            parent.stream_id,
            DiskSettings(),
            changes="compared",
        )
        meta = {"virtual-size": source.size, "incremental": True}
        with (
            open_compared(opened, backup, parent) as point,
            opened.new_stream(new, source.size, meta, level=1) as sink,
        ):
            copy(source, ComparingSink(sink, point))
            stream = sink.stream
            wall_s = time.perf_counter() - start
            opened.drop_stream(new.disk_id, new.stream_id)
        return {
            "wall_s": wall_s,
            "cpu_s": _cpu_s() - before_s,
            "stored": stream.own_blob.size + stream.index.size,
            "data": stream.data_bytes,
        }


def client_download(url: str, cafile: str, target: str, image_format: str = "qcow2") -> dict[str, object]:
    """Download a disk to a new image with imageio's own client, as `ovirt-img download-disk` does."""
    from ovirt_imageio import client

    Path(target).unlink(missing_ok=True)
    start, before_s = time.perf_counter(), _cpu_s()
    client.download(url, target, cafile, fmt=image_format)
    return {
        "wall_s": time.perf_counter() - start,
        "cpu_s": _cpu_s() - before_s,
        "stored": Path(target).stat().st_size,
    }


def client_upload(image: str, url: str, cafile: str) -> dict[str, object]:
    """Upload an image with imageio's own client, as `ovirt-img upload-disk` does."""
    from ovirt_imageio import client

    start, before_s = time.perf_counter(), _cpu_s()
    client.upload(image, url, cafile, disk_is_zero=True)
    return {"wall_s": time.perf_counter() - start, "cpu_s": _cpu_s() - before_s}


def compress(image: str, level: str, frame: str = "") -> dict[str, object]:
    """Only compress and digest the data of a raw image, in one thread, in frames of the usual or of another size."""
    from pitr.repository.blob import FRAME_SIZE, Compressor, digest_of

    frame_size = int(frame or FRAME_SIZE)
    compressor = Compressor(int(level))
    stored = data = 0
    spent = 0.0
    with Path(image).open("rb", buffering=0) as file:
        end = 0
        size = os.fstat(file.fileno()).st_size
        buffer = bytearray(frame_size)
        view = memoryview(buffer)
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), (start // frame_size + 1) * frame_size)
            os.lseek(file.fileno(), start, os.SEEK_SET)
            count = file.readinto(view[: end - start]) or 0
            before = _cpu_s()
            stored += len(compressor.compress(view[:count]))
            digest_of(view[:count])
            spent += _cpu_s() - before
            data += count
            end = start + count
    return {"cpu_s": spent, "stored": stored, "data": data}


def pitr_restore(repository: str, backup_id: str, url: str, cafile: str) -> dict[str, object]:
    """Copy a point in a repository to the daemon, as `pitr restore --to-new-disks` does."""
    from pitr.copier import copy
    from pitr.endpoints.points.point import open_point
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink
    from pitr.repository import Repository

    with Repository.open(Path(repository)) as opened:
        backup = opened.record_of(backup_id)
        start, before_s = time.perf_counter(), _cpu_s()
        with open_point(opened, backup, backup.streams[0]) as source:
            needed = source.needed()
            copied = copy(source, ImageioSink(ImageioAddress(url, cafile=cafile), reads_zero=True))
            return {
                "wall_s": time.perf_counter() - start,
                "cpu_s": _cpu_s() - before_s,
                "written": copied.written,
                "frames_needed": needed.frames,
                "frames_read": source.frames_read,
            }


def replay(repository: str, backup_id: str, url: str, cafile: str) -> dict[str, object]:
    """Restore naively: write all streams of the chain, oldest first, over each other."""
    from pitr.copier import copy
    from pitr.endpoints.points.point import PointSource, StoredStream
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink
    from pitr.repository import Repository
    from pitr.repository.resolver import Layer, resolve

    class Stream(PointSource):
        """One stream alone: ranges outside its extents are not copied."""

        def extents(self):  # type: ignore[no-untyped-def]
            return own

    written = 0
    with Repository.open(Path(repository)) as opened:
        backup = opened.record_of(backup_id)
        start, before_s = time.perf_counter(), _cpu_s()
        for number, (owner, stream) in enumerate(reversed(opened.chain(backup, backup.streams[0]))):
            with opened.open_index(owner, stream) as index:
                own, frames = index.extents(), index.frames()
            stored = StoredStream(owner, stream, frames, opened.open_blob(owner, stream))
            with Stream(resolve([Layer(own, stream.size)]), {0: stored}) as source:
                sink = ImageioSink(ImageioAddress(url, cafile=cafile), reads_zero=number == 0)
                written += copy(source, sink).written
        return {"wall_s": time.perf_counter() - start, "cpu_s": _cpu_s() - before_s, "written": written}


COPIES: dict[str, Callable[..., dict[str, object]]] = {
    "pitr-backup": pitr_backup,
    "pitr-compared": pitr_compared,
    "client-download": client_download,
    "client-upload": client_upload,
    "pitr-restore": pitr_restore,
    "replay": replay,
    "compress": compress,
}

if __name__ == "__main__":
    # The command line does the same.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import measure

    from pitr.system import malloc

    malloc.recycle()

    report = COPIES[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**report, "peak": measure.peak_bytes()}))
