# SPDX-License-Identifier: GPL-2.0-or-later
"""LVM2: the logical volumes that a physical volume describes, and the places of their bytes.

dissect.volume parses the metadata. Only linear segments are mapped. Striped, thin, cached and mirrored volumes are
listed with the reason why they are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pitr.guest.filesystem.volume import VolumeFile

_SECTOR = 512
#: The header of a metadata area, in bytes. The texts behind it form a ring.
_AREA_HEADER = 512
#: LVM's checksum is CRC-32 with this initial value and without the final complement.
_CRC_BEGIN = 0xF597A6CF
_LARGEST_TEXT = 16 << 20


@dataclass(frozen=True, slots=True)
class LogicalSegment:
    """`length` bytes of a logical volume at `offset` of the physical volume with the id `device`."""

    length: int
    device: str
    offset: int


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume of `size` bytes. Without segments, `problem` says why pitr cannot map it."""

    name: str
    size: int
    segments: tuple[LogicalSegment, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """The metadata of one device: its id, and the group that it belongs to ("" when it has no metadata)."""

    device: str
    group_id: str
    group: str
    sequence: int
    volumes: tuple[LogicalVolume, ...]


def read_physical_volume(file: VolumeFile) -> PhysicalVolume:
    """Read the label and the metadata of a device.

    Raises any error of the library about invalid structures; the caller guards the call.
    """
    from dissect.volume.lvm.physical import LVM2Device, parse_metadata  # noqa: PLC0415 - an extra

    device = LVM2Device(file)
    identity = str(device.id)
    best: PhysicalVolume | None = None
    for header, locations in device._metadata_areas:
        for location in locations[:1]:
            text = _text(file.seek, file.read, header.start, header.size, location)
            group = _group(identity, parse_metadata(text.rstrip(b"\0").decode()))
            if best is None or group.sequence > best.sequence:
                best = group
    return best or PhysicalVolume(identity, "", "", -1, ())


def _text(
    seek: Callable[[int], int], read: Callable[[int], bytes], start: int, size: int, location: Any
) -> bytes:
    """Return a metadata text, with its checksum verified. It may continue behind the header of the area."""
    if not 0 < location.size <= _LARGEST_TEXT or not _AREA_HEADER <= location.offset < size:
        raise ValueError("an impossible place of the volume group's metadata")
    first = min(location.size, size - location.offset)
    seek(start + location.offset)
    text = read(first)
    if first < location.size:
        seek(start + _AREA_HEADER)
        text += read(location.size - first)
    if zlib.crc32(text, _CRC_BEGIN ^ 0xFFFFFFFF) ^ 0xFFFFFFFF != location.checksum:
        raise ValueError("a wrong checksum of the volume group's metadata")
    return text


def _group(device: str, metadata: dict[str, Any]) -> PhysicalVolume:
    ((name, group),) = [(key, value) for key, value in metadata.items() if isinstance(value, dict)]
    extent = _positive(group["extent_size"]) * _SECTOR
    devices = {
        key: (str(device["id"]).replace("-", ""), _positive(device["pe_start"]) * _SECTOR)
        for key, device in group["physical_volumes"].items()
    }
    volumes = tuple(
        _volume(key, volume, extent, devices)
        for key, volume in group.get("logical_volumes", {}).items()
        if "VISIBLE" in volume["status"]
    )
    return PhysicalVolume(device, str(group["id"]), str(name), int(group["seqno"]), volumes)


def _volume(
    name: str, volume: dict[str, Any], extent: int, devices: dict[str, tuple[str, int]]
) -> LogicalVolume:
    parts = sorted(
        (part for part in volume.values() if isinstance(part, dict)),
        key=lambda part: int(part["start_extent"]),
    )
    size = sum(_positive(part["extent_count"]) for part in parts) * extent
    segments: list[LogicalSegment] = []
    at = 0
    for part in parts:
        kind = str(part["type"])
        if kind != "striped" or part["stripe_count"] != 1:
            problem = f"it has {part['stripe_count']} stripes" if kind == "striped" else f"its type is {kind}"
            return LogicalVolume(name, size, (), problem)
        if int(part["start_extent"]) * extent != at:
            raise ValueError("a logical volume with a gap")
        key, first = part["stripes"]
        device, start = devices[key]
        if int(first) < 0:
            raise ValueError("a segment before the start")
        length = int(part["extent_count"]) * extent
        segments.append(LogicalSegment(length, device, start + int(first) * extent))
        at += length
    return LogicalVolume(name, size, tuple(segments), None if segments else "it has no segments")


def _positive(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value < 1 << 50:
        raise ValueError(f"{value!r} instead of a size")
    return value
