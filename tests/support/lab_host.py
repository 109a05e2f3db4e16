# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the lab's host share: reading a backup as a client does, and looking at processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovirt_imageio.client import ImageioClient

from pitr.lab.host import Host

KIB = 1 << 10
MIB = 1 << 20

_tickets = itertools.count(1)


@contextmanager
def open_client(
    host: Host, url: str, size: int, *, ops: tuple[str, ...] = ("read",), dirty: bool = False
) -> Iterator[ImageioClient]:
    """A client of the real daemon, with a ticket of its own."""
    ticket_id = f"ticket-{next(_tickets)}"
    host.add_ticket(ticket_id, nbd_url=url, size=size, ops=ops, dirty=dirty)
    with ImageioClient(f"{host.images_url}/{ticket_id}", cafile=str(host.cafile)) as client:
        yield client
    assert host.remove_ticket(ticket_id)


@contextmanager
def open_backup(host: Host, backup_id: str, volume_id: str, *, dirty: bool) -> Iterator[ImageioClient]:
    url = host.backup_export(backup_id, volume_id)
    with open_client(host, url, host.volume(volume_id).size, dirty=dirty) as client:
        yield client


def extents_text(client: ImageioClient, context: str) -> str:
    """The extents as text, such as "64k:data 64k:zero 128k:unchanged"."""
    words: list[tuple[int, str]] = []
    for extent in client.extents(context):
        unchanged = context == "dirty" and not extent.dirty
        state = "unchanged" if unchanged else "zero" if extent.zero else "data"
        if words and words[-1][1] == state:
            words[-1] = (words[-1][0] + extent.length, state)
        else:
            words.append((extent.length, state))
    return " ".join(f"{length // KIB}k:{state}" for length, state in words)


def read_backup(host: Host, backup_id: str, volume_id: str, *, onto: bytes | None = None) -> bytes:
    """Read a full, or an incremental onto the bytes of an older point, as a backup program would."""
    size = host.volume(volume_id).size
    disk = bytearray(size if onto is None else onto)
    assert len(disk) == size
    with open_backup(host, backup_id, volume_id, dirty=onto is not None) as client:
        for extent in client.extents("zero" if onto is None else "dirty"):
            end = extent.start + extent.length
            if onto is not None and not extent.dirty:
                continue
            if extent.zero:
                disk[extent.start : end] = bytes(extent.length)
            else:
                client.read(extent.start, memoryview(disk)[extent.start : end])
    return bytes(disk)


def content(host: Host, volume_id: str, folder: Path) -> bytes:
    """The bytes that the guest sees, by a way that does not touch imageio."""
    copy = folder / "content.raw"
    host.copy_content(volume_id, copy)
    found = copy.read_bytes()
    copy.unlink()
    return found


def children_of(pid: int) -> list[int]:
    """The processes that `pid` started and that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            state, parent = _state_and_parent(int(folder.name))
            if parent == pid and state not in _ENDED:
                found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    return _state_and_parent(pid)[0] not in _ENDED


#: A zombie, dead, and gone.
_ENDED = ("Z", "X", "")


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        # Both follow the name, which is in parentheses and may hold anything.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return words[0], int(words[1])
