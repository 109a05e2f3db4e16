# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a disk as a sparse stream in a pipe (`pitr backup --to -`, and the gateway with curl) with imageio's example.

The peer follows our notes about the example program: one client, its list of extents, a header for each, and `write_to`
standard output. Times are of whole pipelines, with the start of the programs, into `cat` to the null device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import disks
import measure
from measure import Result, Size

from pitr.lab import Lab
from pitr.ovirt import engine
from pitr.ovirt.engine import Engine

GOAL = 1.0
WAYS = ("TLS", "unix socket")


def benchmark(size: Size) -> list[Result]:
    results: list[Result] = []
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        for way in WAYS:
            place = folder / way[:1]
            place.mkdir()
            with Lab(place, phase_lag_s=0.01, unix_socket=way != "TLS") as lab:
                results += _one_way(lab, folder, image, size, way)
    return results


def _one_way(lab: Lab, folder: Path, image: Path, size: Size, way: str) -> list[Result]:
    disk = lab.add_disk("disk", size.disk_bytes, content=image)
    environ = {**os.environ, **lab.environment()}
    config = engine.load_config(environ=environ)
    with (
        Engine(config) as connected,
        engine.start_download(connected, disk.id, inactivity_timeout_s=3600) as transfer,
        _gateway(folder, environ) as gateway,
    ):
        # In the environment, because all users can see arguments.
        secret = {"TRANSFER_URL": transfer.transfer_url, "CAFILE": str(lab.cafile)}
        url = f"{gateway['url']}/images/{transfer.id}"

        def python(*arguments: str) -> list[str]:
            return [sys.executable, __file__, *arguments]

        def curl(compress: str) -> list[str]:
            return ["curl", "-sSf", "-H", f"@{gateway['header']}", f"{url}?compress={compress}"]

        zstd = ["zstd", "-1", "-T2", "-c", "-q"]
        samples = measure.in_turn(
            size.runs,
            {
                "pitr": lambda: _pipeline(secret, python("pitr", "none", str(folder))),
                "example": lambda: _pipeline(secret, python("example")),
                "gateway | curl": lambda: _pipeline({}, curl("none")),
                "pitr zstd": lambda: _pipeline(secret, python("pitr", "zstd", str(folder))),
                "example | zstd -1 -T2": lambda: _pipeline(secret, python("example"), zstd),
                "gateway zstd | curl": lambda: _pipeline({}, curl("zstd")),
            },
        )
    name = f"{way}, {size.disk_bytes / measure.GIB:g} GiB disk"
    return [
        measure.compared(f"to a pipe, {name}", samples, "pitr", "example", goal=GOAL),
        measure.compared(
            f"to a pipe, compressed, {name}", samples, "pitr zstd", "example | zstd -1 -T2", goal=GOAL
        ),
        measure.compared(f"gateway, {name}", samples, "gateway | curl", "example", goal=None),
        measure.compared(
            f"gateway, compressed, {name}",
            samples,
            "gateway zstd | curl",
            "example | zstd -1 -T2",
            goal=None,
        ),
    ]


def _pipeline(environment: dict[str, str], *commands: list[str]) -> float:
    """Return the seconds of `commands | cat > /dev/null`. Raises CalledProcessError when a command fails."""

    def run() -> None:
        running: list[subprocess.Popen[bytes]] = []
        source: int | None = None
        for command in [*commands, ["cat"]]:
            last = command == ["cat"]
            child = subprocess.Popen(
                command,
                stdin=source,
                stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                env={**os.environ, **environment},
            )
            if source is not None:
                os.close(source)
            source = None if last or child.stdout is None else os.dup(child.stdout.fileno())
            if child.stdout is not None:
                child.stdout.close()
            running.append(child)
        for child in running:
            if child.wait():
                raise subprocess.CalledProcessError(child.returncode, child.args)

    return measure.seconds(run)


@contextmanager
def _gateway(folder: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start `pitr gateway`. Yield its URL, and the file with the header for curl."""
    command = [sys.executable, "-m", "pitr", "gateway", "--port", "0", "--output", "json"]
    environ = {name: value for name, value in environ.items() if name != "PITR_REPO"}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the process has no pipe")
            found = json.loads(process.stdout.readline())["gateway"]
            header = folder / "header"
            header.unlink(missing_ok=True)
            header.touch(mode=0o600)
            header.write_text(f"Authorization: Bearer {Path(found['token_file']).read_text()}")
            yield {"url": found["url"], "header": str(header)}
        finally:
            process.terminate()


def pitr(compression: str, folder: str) -> None:
    """Write the stream to standard output and its index to a repository, as `pitr backup --to -` does."""
    import shutil
    import uuid

    from pitr.copier import copy
    from pitr.endpoints.streams.output import PipeOutput
    from pitr.model import DiskSettings, Kind
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
    from pitr.ovirt.imageio.keep_alive import KeptAliveSource, kept_alive
    from pitr.repository.store import PosixStore
    from pitr.repository.stream_sink import NewStream, StreamSink
    from pitr.system import malloc
    from pitr.system.signals import WakeOnSignal

    # The command line does the same.
    malloc.recycle()
    path = Path(folder) / "repository"
    path.mkdir()
    store = PosixStore(path)
    address = ImageioAddress(os.environ["TRANSFER_URL"], cafile=os.environ["CAFILE"])
    source = ImageioSource(address)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    new = NewStream(ids[0], ids[1], ids[2], "disk", Kind.FULL, None, None, DiskSettings())
    with WakeOnSignal() as wake:
        output = PipeOutput(1, compression, wake=wake)  # type: ignore[arg-type]
        meta = {"virtual-size": source.size, "incremental": False}
        with (
            kept_alive(address),
            StreamSink(store, new, source.size, meta, level=1, external=output) as sink,
        ):
            copy(KeptAliveSource(source), sink)
    store.close()
    shutil.rmtree(path)


def example() -> None:
    """Write the stream as imageio's example does: a header and the data of each extent."""
    from ovirt_imageio.client import ImageioClient

    out = sys.stdout.buffer
    with ImageioClient(os.environ["TRANSFER_URL"], cafile=os.environ["CAFILE"]) as client:
        extents = list(client.extents("zero"))
        size = extents[-1].start + extents[-1].length
        data = sum(extent.length for extent in extents if not extent.zero)
        meta = json.dumps({"virtual-size": size, "data-size": data, "incremental": False}).encode()
        out.write(b"meta %016x %016x\r\n%s\r\n" % (0, len(meta), meta))
        for extent in extents:
            kind = b"zero" if extent.zero else b"data"
            out.write(b"%s %016x %016x\r\n" % (kind, extent.start, extent.length))
            if not extent.zero:
                client.write_to(out, extent.start, extent.length)
                out.write(b"\r\n")
        out.write(b"stop %016x %016x\r\n" % (0, 0))
        out.flush()


if __name__ == "__main__":
    programs = {"pitr": pitr, "example": example}
    if sys.argv[1:2] and sys.argv[1] in programs:
        programs[sys.argv[1]](*sys.argv[2:])
    else:
        measure.main(benchmark)
