# SPDX-License-Identifier: GPL-2.0-or-later
"""Make disks for the benchmarks: an ext4 file system with real files of this machine, and a daemon that serves it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sysconfig
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measure

from pitr.lab.host import filesystem
from pitr.lab.host.host import Host, TicketTimes
from pitr.ovirt.imageio.disk import ImageioAddress

#: The filled share of an ext4 disk: a typical disk had 4.34 GB in 6 GiB.
_FILLED = 0.70


def _sources() -> list[Path]:
    """Return folders of Python and of the system: code, text, data, and some compressed files."""
    python = Path(sysconfig.get_path("stdlib"))
    return [
        place for place in (python, Path("/usr/share"), Path("/usr/bin"), Path("/usr/lib")) if place.is_dir()
    ]


def real_files(target: Path, budget: int) -> None:
    """Put about `budget` bytes of this machine's files into the new folder `target`, a share from each source."""
    target.mkdir()
    sources = _sources()
    left = budget
    for number, source in enumerate(sources):
        left -= _fill(target / str(number), source, left // (len(sources) - number))


def _fill(target: Path, source: Path, budget: int) -> int:
    """Put files of the folder `source` into `target`, up to `budget` bytes. Return their bytes."""
    used = 0
    for folder, folders, names in os.walk(source):
        folders.sort()
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            path = Path(folder) / name
            try:
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and used + status.st_size <= budget:
                    _link_or_copy(path, place / name)
                    used += status.st_size
            except OSError:
                # Unreadable or just deleted: one file more or less makes no difference.
                continue
        if used > budget - measure.MIB:
            break
    return used


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def real_disk(path: Path, size: int) -> None:
    """Make the raw image `path`: an ext4 file system of `size` bytes with real files.

    If PITR_BENCH_CACHE names a folder, the image is created once and copied from there in later runs.
    """
    cache = os.environ.get("PITR_BENCH_CACHE")
    kept = Path(cache) / f"real-{size}.raw" if cache else None
    if kept is None or not kept.exists():
        made = path if kept is None else kept.with_suffix(".part")
        files = path.with_suffix(".files")
        try:
            real_files(files, int(size * _FILLED))
            made.unlink(missing_ok=True)
            filesystem.make_ext4(made, size, files)
        finally:
            shutil.rmtree(files, ignore_errors=True)
        if kept is not None:
            made.rename(kept)
    if kept is not None:
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(kept), str(path)], check=True)


@contextmanager
def host(place: Path, *, unix_socket: bool, tls: bool = True) -> Iterator[Host]:
    """Run a real imageio daemon and real qemu in the folder `place`."""
    place.mkdir()
    with Host(place, unix_socket=unix_socket, tls=tls) as running:
        yield running


def ticket(
    host: Host, nbd_url: str, size: int, *, ops: tuple[str, ...], dirty: bool = False
) -> tuple[str, ImageioAddress]:
    """Open access to a disk. Return the id of its ticket, and its address."""
    ticket_id = str(uuid.uuid4())
    host.add_ticket(
        ticket_id,
        nbd_url=nbd_url,
        size=size,
        ops=ops,
        dirty=dirty,
        times=TicketTimes(timeout_s=3600, inactivity_s=600),
    )
    return ticket_id, ImageioAddress(f"{host.images_url}/{ticket_id}", cafile=str(host.cafile))
