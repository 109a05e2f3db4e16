# SPDX-License-Identifier: GPL-2.0-or-later
"""The small pieces of work that bench/check.py counts.

Each is a generator that prepares a run and yields the work of it.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import counters
import measure
from measure import MIB

if TYPE_CHECKING:
    from pitr.model import Backup
    from pitr.repository import Repository

GRAIN = 1 << 16
DISK_BYTES = 32 * MIB
INCREMENTALS = 12
SCATTERED = 60
#: The generated catalog: so many VMs, and points of each.
VMS, POINTS = 10, 50
DISK = "22222222-0000-4000-8000-000000000001"
VM = f"server{VMS // 2:05}.example.com"


@dataclass(frozen=True, slots=True)
class Place:
    """The prepared folder, and the number of the run: 0 is not counted, 1 is."""

    folder: Path
    run: int

    @property
    def image(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def chain(self) -> Path:
        return self.folder / "chain"

    @property
    def scale(self) -> Path:
        return self.folder / "scale"

    @property
    def new(self) -> Path:
        """A path that no other run uses."""
        return self.folder / f"new-{os.getpid()}-{self.run}"


#: A piece of work: `ready` makes it ready and yields what is counted.
Work = Callable[[], None]
Benchmark = Callable[[Place], Iterator[Work]]


# Content


def content(seed: int, size: int) -> bytes:
    """Return bytes of which about a half can be compressed, always the same ones."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(3, 12)) for _ in range(500)]
    text = b"".join(chance.choices(words, k=20_000))
    made = bytearray()
    while len(made) < size:
        start = chance.randrange(len(text) - 8192)
        made += chance.randbytes(8192) + text[start : start + 8192]
    return bytes(made[:size])


def prepare(folder: Path) -> None:
    """Make a disk image with holes, a repository with a chain of it, and one with a catalog of many points."""
    import chains
    import scale

    from pitr.repository import Repository

    place = Place(folder, 0)
    with place.image.open("wb") as file:
        file.truncate(DISK_BYTES)
        for number, start in enumerate(range(0, DISK_BYTES, 8 * MIB)):
            file.seek(start)
            file.write(content(number, 5 * MIB))
    with Repository.create(place.chain) as repository:
        chains.make_chain(repository, place.image, INCREMENTALS, workers=1)
    scale.generate(place.scale, scale.Scale(VMS, POINTS, in_catalog=True))


def _newest(repository: Repository) -> Backup:
    return max(repository.catalog.points(), key=lambda backup: backup.point)


# Backups


@contextmanager
def _served(place: Place, *, dirty: bool) -> Iterator[object]:
    """Yield the address of the image in a daemon; with `dirty`, of the changes since a checkpoint.

    Without TLS, because the number of its reads depends on how the data arrives.
    """
    import disks

    with measure.folder() as folder, disks.host(folder / "h", unix_socket=True, tls=False) as host:
        if dirty:
            host.create_volume("disk", DISK_BYTES, "cow")
            host.start_vm("vm", ["disk"])
            host.begin_backup("vm", "first", {"disk": None}, "c1")
            host.end_backup("first")
            slots = sorted(random.Random(3).sample(range(DISK_BYTES // GRAIN), SCATTERED))
            with host.guest("vm", "disk") as guest:
                for slot in slots:
                    guest.write(slot * GRAIN, content(slot, GRAIN))
            host.begin_backup("vm", "second", {"disk": "c1"}, "c2")
            url = host.backup_export("second", "disk")
        else:
            host.create_volume("disk", DISK_BYTES, "cow", content=place.image)
            url = host.serve_volume("disk", read_only=True)
        yield disks.ticket(host, url, DISK_BYTES, ops=("read",), dirty=dirty)[1]


def full_backup(place: Place) -> Iterator[Work]:
    import chains

    from pitr.ovirt.imageio.disk import ImageioSource
    from pitr.repository import Repository

    with _served(place, dirty=False) as address, Repository.create(place.new) as repository:
        yield lambda: chains.store(repository, ImageioSource(address), None, 0, DISK, workers=1)


def incremental_backup(place: Place) -> Iterator[Work]:
    import chains

    from pitr.ovirt.imageio.disk import ImageioSource
    from pitr.repository import Repository

    shutil.copytree(place.chain, place.new)
    with _served(place, dirty=True) as address, Repository.open(place.new) as repository:
        newest = _newest(repository)
        yield lambda: chains.store(
            repository, ImageioSource(address, "dirty"), newest, 50, newest.streams[0].disk_id, workers=1
        )


def compared_backup(place: Place) -> Iterator[Work]:
    from pitr.copier import copy
    from pitr.endpoints.points.comparing import ComparingSink, open_compared
    from pitr.model import DiskSettings, Kind
    from pitr.ovirt.imageio.disk import ImageioSource
    from pitr.repository import Repository
    from pitr.repository.stream_sink import NewStream

    shutil.copytree(place.chain, place.new)
    with _served(place, dirty=False) as address, Repository.open(place.new) as repository:
        parent = _newest(repository)
        stream = parent.streams[0]
        ids = [str(uuid.uuid4()) for _ in range(2)]
        new = NewStream(
            *ids,
            stream.disk_id,
            "disk",
            Kind.INCREMENTAL,
            "raw",
            stream.stream_id,
            DiskSettings(),
            None,
            "compared",
        )

        def work() -> None:
            meta = {"virtual-size": stream.size, "incremental": True}
            with (
                open_compared(repository, parent, stream) as point,
                repository.new_stream(new, stream.size, meta, level=1) as sink,
            ):
                copy(ImageioSource(address), ComparingSink(sink, point), workers=1)

        yield work


# What reads points


def restore_of_a_chain(place: Place) -> Iterator[Work]:
    import disks

    from pitr.copier import copy
    from pitr.endpoints.points.point import open_point
    from pitr.ovirt.imageio.disk import ImageioSink
    from pitr.repository import Repository

    with measure.folder() as folder, disks.host(folder / "h", unix_socket=True, tls=False) as host:
        host.create_volume("disk", DISK_BYTES, "cow")
        url = host.serve_volume("disk", read_only=False)
        _, address = disks.ticket(host, url, DISK_BYTES, ops=("write",))

        def work() -> None:
            with Repository.open(place.chain) as repository:
                newest = _newest(repository)
                with open_point(repository, newest, newest.streams[0]) as source:
                    copy(source, ImageioSink(address, reads_zero=True), workers=1)

        yield work


def full_verify(place: Place) -> Iterator[Work]:
    yield from _verify(place, "full")


def quick_verify(place: Place) -> Iterator[Work]:
    yield from _verify(place, "quick")


def _verify(place: Place, level: str) -> Iterator[Work]:
    from pitr.jobs.verify.stored_data import Scope, verify
    from pitr.repository import Repository

    def work() -> None:
        with Repository.open(place.chain) as repository:
            verified = verify(repository, Scope(), level, workers=1)  # type: ignore[arg-type]
            assert verified.ok and verified.points == INCREMENTALS + 1

    yield work


def serving(place: Place) -> Iterator[Work]:
    """Read a served point through once, then blocks at random places."""
    import socket

    from pitr.jobs.serve.over_nbd import serving as over_nbd
    from pitr.nbd.client import Client, parse_url
    from pitr.repository import Repository

    path = place.folder / f"s{place.run}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    buffer = memoryview(bytearray(MIB))
    chance = random.Random(7)

    def work() -> None:
        with Repository.open(place.chain) as repository:
            newest = _newest(repository)
            with (
                over_nbd(repository, newest, newest.streams, listener, cache_bytes=16 * MIB),
                Client(*parse_url(f"nbd+unix:///?socket={path}")) as client,
            ):
                for offset in range(0, DISK_BYTES, MIB):
                    client.read_into(offset, buffer)
                for _ in range(100):
                    client.read_into(chance.randrange(DISK_BYTES // 4096) * 4096, buffer[:4096])

    yield work


# What reads many points


def list_of_a_vm(place: Place) -> Iterator[Work]:
    yield from _command(place.scale, "list", VM)


def prune_plan(place: Place) -> Iterator[Work]:
    yield from _command(place.scale, "prune", VM, "--keep-last", "10", "--dry-run")


def version(place: Place) -> Iterator[Work]:
    yield from _command(place.scale, "--version")


def _command(repository: Path, *arguments: str) -> Iterator[Work]:
    os.environ.update(PITR_REPO=str(repository), TZ="UTC", COLUMNS="140")

    def work() -> None:
        from pitr.cli.main import main

        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
            code = main(list(arguments))
        assert code == 0, f"pitr {arguments[0]} exited with {code}"
        counters.counts["modules"] = len(sys.modules)
        counters.counts["modules of pitr"] = sum(name.partition(".")[0] == "pitr" for name in sys.modules)

    yield work


def consolidation(place: Place) -> Iterator[Work]:
    from pitr.jobs.consolidate.one_point import consolidate
    from pitr.repository import Repository

    shutil.copytree(place.chain, place.new)

    def work() -> None:
        with Repository.open(place.new) as repository:
            assert consolidate(repository, _newest(repository)).created

    yield work


def bucket(place: Place) -> Iterator[Work]:
    """Back up to an object store, and verify what is there."""
    from datetime import timedelta

    import chains
    import obstore.store

    from pitr.endpoints.images.raw_file import RawFileSource
    from pitr.jobs.verify.stored_data import Scope, verify
    from pitr.repository import Repository
    from pitr.repository.marker import Marker
    from pitr.repository.store.object_store import ObjectStore

    (place.new / "locks").mkdir(parents=True)
    objects = obstore.store.MemoryStore()
    store = ObjectStore(objects, objects, place.new)
    marker = Marker(str(uuid.UUID(int=1)), timedelta(days=3), str(uuid.UUID(int=1)))

    def work() -> None:
        with (
            Repository(place.new, store, marker, place.new) as repository,
            RawFileSource(place.image) as source,
        ):
            chains.store(repository, source, None, 0, DISK, workers=1)
            assert verify(repository, Scope(), "full", workers=1).ok

    yield work


BENCHMARKS: dict[str, Benchmark] = {
    "full backup": full_backup,
    "incremental backup": incremental_backup,
    "compared backup": compared_backup,
    "restore of a chain": restore_of_a_chain,
    "full verify": full_verify,
    "quick verify": quick_verify,
    "serve": serving,
    "list of a VM": list_of_a_vm,
    "prune plan": prune_plan,
    "consolidation": consolidation,
    "bucket": bucket,
    "version": version,
}
