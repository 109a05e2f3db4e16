# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of disk that has a sink and a source, behind one small interface."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.memory import MemorySink, MemorySource
from pitr.endpoints.images.nbd_export import NbdSink, NbdSource
from pitr.endpoints.images.qcow2_file import Qcow2FileSink, Qcow2FileSource
from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.endpoints.images.raw_file import RawFileSink, RawFileSource
from pitr.lab.host.host import Host
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink, ImageioSource

_numbers = itertools.count(1)


class Disk:
    """One disk: written once through its sink, then read through its source."""

    def __init__(self, sink: Sink, source: Callable[[], AbstractContextManager[Source]]) -> None:
        self.sink = sink
        self.source = source


Make = Callable[[int], Disk]


@contextmanager
def memory(folder: Path, request: Any) -> Iterator[Make]:
    def make(size: int) -> Disk:
        sink = MemorySink(size)
        return Disk(sink, lambda: nullcontext(MemorySource(sink.content)))

    yield make


@contextmanager
def raw(folder: Path, request: Any) -> Iterator[Make]:
    path = folder / "disk.raw"
    yield lambda size: Disk(RawFileSink(path, size), lambda: RawFileSource(path))


@contextmanager
def qcow2(folder: Path, request: Any) -> Iterator[Make]:
    path = folder / "disk.qcow2"
    yield lambda size: Disk(Qcow2FileSink(path, size), lambda: Qcow2FileSource(path))


@contextmanager
def nbd(folder: Path, request: Any) -> Iterator[Make]:
    path = folder / "export.raw"
    with ExitStack() as closing:

        def make(size: int) -> Disk:
            with path.open("xb") as image:
                image.truncate(size)
            server = closing.enter_context(QemuNbd(path, "raw", read_only=False))
            return Disk(NbdSink(server.url, size, reads_zero=True), lambda: NbdSource(server.url))

        yield make


@contextmanager
def _imageio(host: Host, volume_format: str) -> Iterator[Make]:
    name = f"disk{next(_numbers)}"
    with ExitStack() as closing:

        def make(size: int) -> Disk:
            address = add_disk(host, name, size, volume_format)
            closing.callback(remove_disk, host, name)
            return Disk(ImageioSink(address, reads_zero=True), lambda: nullcontext(ImageioSource(address)))

        yield make


def imageio_cow(folder: Path, request: Any) -> AbstractContextManager[Make]:
    return _imageio(request.getfixturevalue("host"), "cow")


def imageio_raw_remote(folder: Path, request: Any) -> AbstractContextManager[Make]:
    return _imageio(request.getfixturevalue("remote_host"), "raw")


KINDS: dict[str, Callable[[Path, Any], AbstractContextManager[Make]]] = {
    "memory": memory,
    "raw": raw,
    "qcow2": qcow2,
    "nbd": nbd,
    "imageio-cow": imageio_cow,
    "imageio-raw-remote": imageio_raw_remote,
}


def add_disk(host: Host, name: str, size: int, volume_format: str = "raw") -> ImageioAddress:
    """Create an empty disk with a ticket for reading and writing. The ticket has the disk's name."""
    host.create_volume(name, size, volume_format)
    url = host.serve_volume(name, read_only=False)
    host.add_ticket(name, nbd_url=url, size=size, ops=["read", "write"])
    return ImageioAddress(f"{host.images_url}/{name}", cafile=host.cafile)


def remove_disk(host: Host, name: str) -> None:
    host.remove_ticket(name)
    host.stop_serving(name)
    host.delete_volume(name)
