# SPDX-License-Identifier: GPL-2.0-or-later
"""Logical volumes, disks that belong together, and unreadable volumes."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import zstandard

from pitr.guest.filesystem import VolumeFile
from pitr.guest.filesystem.volume import DiskRange
from pitr.guest.lvm import read_physical_volume
from pitr.repository import Repository
from tests.support.guest_images import MiB, make_tree, partitioned, run
from tests.support.pitr import Pitr
from tests.support.points_of_images import AT, store_states

#: The first MiB of a physical volume of 32 MiB that LVM 2.03.16 made: extents of 1 MiB, vg0/root of 8 and, behind
#: vg0/home of 8, of 4 more, vg0/spare of 2. Its 511 changes have filled the ring, and the text begins again.
_HEAD = zstandard.ZstdDecompressor().decompress((Path(__file__).parent / "lvm2-head.zst").read_bytes())


def physical_volume(root: bytes, home: bytes) -> bytes:
    device = bytearray(_HEAD).ljust(32 * MiB, b"\0")
    for offset, data in ((1, root[: 8 * MiB]), (9, home), (17, root[8 * MiB :])):
        device[offset * MiB : offset * MiB + len(data)] = data
    return bytes(device)


def file_of(device: bytes) -> VolumeFile:
    return VolumeFile([DiskRange(len(device), lambda at, length: device[at : at + length], 0)])


def ext4(folder: Path, size: int, files: Path) -> bytes:
    image = folder / f"{size}.ext4"
    run("truncate", "-s", f"{size}M", image)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", files, image)
    return image.read_bytes()


def test_files_of_logical_volumes(repository: Repository, command: Pitr, tmp_path: Path) -> None:
    files = make_tree(tmp_path / "files")
    # The whole file, up to the second segment.
    (files / "var/log/big.log").write_bytes(b"0123456789abcdef" * (6 * MiB // 16))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_bytes(b"Dear all")
    device = physical_volume(ext4(tmp_path, 12, files), ext4(tmp_path, 8, tmp_path / "home"))
    store_states(repository, [[partitioned((0x83, bytes(MiB)), (0x8E, device))]])
    volumes = command.json("files", "ls", "--at", AT[0])["volumes"]
    assert [(one["volume"], one["content"], one["size"] // MiB) for one in volumes] == [
        ("1", None, 1),
        ("2", "LVM physical volume", 32),
        ("vg0/root", "ext4", 12),
        ("vg0/home", "ext4", 8),
        ("vg0/spare", None, 2),
    ]
    assert command("files", "cat", "--at", AT[0], "/letter").stdout == "Dear all"
    command("files", "cp", "--at", AT[0], "/var", tmp_path / "copy")
    assert (tmp_path / "copy/log/big.log").read_bytes() == (files / "var/log/big.log").read_bytes()
    complaint = command("files", "ls", "--at", AT[0], "--volume", "vg0/spare", "/", code=1).complaint
    assert "no known file system found" in complaint
    assert (
        "listed separately" in command("files", "ls", "--at", AT[0], "--volume", "2", "/", code=1).complaint
    )


def test_what_logical_volumes_are_is_read_from_the_newest_text() -> None:
    found = read_physical_volume(file_of(_HEAD.ljust(32 * MiB, b"\0")))
    assert (found.group, found.sequence) == ("vg0", 511)
    root, home, spare = found.volumes
    assert [(one.length // MiB, one.offset // MiB) for one in root.segments] == [(8, 1), (4, 17)]
    assert [(one.length // MiB, one.offset // MiB) for one in home.segments] == [(8, 9)]
    assert spare.size == 2 * MiB and spare.problem is None


def _changed(old: bytes, new: bytes) -> bytes:
    """The device with changed metadata and correct checksums."""
    assert len(old) == len(new)
    device = bytearray(_HEAD)
    start, size = 4096, 1044480
    at = start + 40
    offset, length = (int.from_bytes(device[at + 8 * n : at + 8 * n + 8], "little") for n in (0, 1))
    places = [
        start + offset + n if offset + n < size else start + 512 + offset + n - size for n in range(length)
    ]
    text = bytes(device[place] for place in places)
    assert old in text
    text = text.replace(old, new)
    for place, byte in zip(places, text, strict=True):
        device[place] = byte
    checksum = zlib.crc32(text, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    device[at + 16 : at + 20] = checksum.to_bytes(4, "little")
    return bytes(device)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'type = "striped"', b'type = "writeca"', "its type is writeca"),
        (b"stripe_count = 1", b"stripe_count = 2", "it has 2 stripes"),
    ],
)
def test_other_kinds_of_logical_volumes_are_named_and_not_read(
    repository: Repository, command: Pitr, old: bytes, new: bytes, why: str
) -> None:
    store_states(repository, [[_changed(old, new).ljust(32 * MiB, b"\0")]])
    (lvm, *volumes) = command.json("files", "ls", "--at", AT[0])["volumes"]
    assert lvm["volume"] == "0" and len(volumes) == 3
    assert all(not one["readable"] and why in one["problem"] for one in volumes)


@pytest.mark.parametrize(
    "change",
    [
        (b"start_extent = 0", b"start_extent = 3"),
        (b"extent_count = 8", b"extent_count =-8"),
        (b"root {", b"root  "),
    ],
)
def test_metadata_that_contradicts_itself_is_a_damaged_volume(
    repository: Repository, command: Pitr, change: tuple[bytes, bytes]
) -> None:
    store_states(repository, [[_changed(*change).ljust(32 * MiB, b"\0")]])
    (only,) = command.json("files", "ls", "--at", AT[0])["volumes"]
    assert "metadata is damaged" in only["problem"]


def test_a_changed_byte_of_the_metadata_is_noticed(repository: Repository, command: Pitr) -> None:
    device = bytearray(_HEAD.ljust(32 * MiB, b"\0"))
    place = device.rindex(b"stripe_count = 1")
    device[place + 15] = ord("3")
    before = read_physical_volume(file_of(_HEAD.ljust(32 * MiB, b"\0")))
    try:
        after = read_physical_volume(file_of(bytes(device)))
    except ValueError as error:
        assert "checksum" in str(error)
    else:
        assert after == before, "an older text was changed"


def test_a_volume_on_two_disks_needs_both(repository: Repository, command: Pitr) -> None:
    device = _HEAD.ljust(32 * MiB, b"\0")
    # The label belongs to another device of the same group.
    at = device.index(b"LVM2 001") + 8
    stranger = device[:at] + b"x" * 32 + device[at + 32 :]
    store_states(repository, [[stranger]])
    (_, *volumes) = command.json("files", "ls", "--at", AT[0])["volumes"]
    assert all("this point does not hold" in one["problem"] for one in volumes) and len(volumes) == 3


@pytest.mark.parametrize(
    ("at", "magic", "what"),
    [
        (0, b"LUKS\xba\xbe", "LUKS"),
        (3, b"EXFAT   ", "exFAT"),
        (3, b"-FVE-FS-", "BitLocker"),
        (0, b"", "no known file system"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(
    repository: Repository, command: Pitr, at: int, magic: bytes, what: str
) -> None:
    store_states(repository, [[(bytes(at) + magic).ljust(MiB, b"\0")]])
    for words in (["/"], ["/", "--volume", "0"]):
        complaint = command("files", "ls", "--at", AT[0], *words, code=1).complaint
        assert what in complaint and "pitr restore --to-file" in complaint
