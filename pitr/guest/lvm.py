# SPDX-License-Identifier: GPL-2.0-or-later
"""LVM2: which logical volumes a physical volume describes, and where their bytes lie.

The metadata's own form is parsed by dissect.volume. Only linear segments are mapped: striped, thin, cached and
mirrored ones are named, with why they are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pitr.guest.filesystem.volume import VolumeFile

_SECTOR = 512
#: Of a metadata area: its header, behind which the texts go round in a ring.
_AREA_HEADER = 512
#: LVM's checksums are CRC-32 with this beginning and without a final complement.
_CRC_BEGIN = 0xF597A6CF
_LARGEST_TEXT = 16 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` bytes of a logical volume at `offset` of the physical volume with the id `device`."""

    length: int
    device: str
    offset: int


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """`size` is bytes; without segments `problem` says why they cannot be told."""

    name: str
    size: int
    segments: tuple[Segment, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """What one device says: its own id, and the group that it belongs to (of no name when it has no metadata)."""

    device: str
    group_id: str
    group: str
    sequence: int
    volumes: tuple[LogicalVolume, ...]


def read_physical_volume(file: VolumeFile) -> PhysicalVolume:
    """Read the label and the metadata of a device.

    Raises whatever the library makes of structures that make no sense: the caller guards it.
    """
    from dissect.volume.lvm.physical import LVM2Device, parse_metadata  # noqa: PLC0415 - an extra

    device = LVM2Device(file)
    identity = str(device.id)
    best: PhysicalVolume | None = None
    for header, locations in device._metadata_areas:
        for location in locations[:1]:
            text = _text(file.seek, file.read, header.start, header.size, location)
            found = _group(identity, parse_metadata(text.rstrip(b"\0").decode()))
            if best is None or found.sequence > best.sequence:
                best = found
    return best or PhysicalVolume(identity, "", "", -1, ())


def _text(
    seek: Callable[[int], int], read: Callable[[int], bytes], start: int, size: int, location: Any
) -> bytes:
    """A metadata text, which may begin again behind the area's header, compared with its checksum."""
    if not 0 < location.size <= _LARGEST_TEXT or not _AREA_HEADER <= location.offset < size:
        raise ValueError("the metadata of the volume group lies nowhere")
    first = min(location.size, size - location.offset)
    seek(start + location.offset)
    text = read(first)
    if first < location.size:
        seek(start + _AREA_HEADER)
        text += read(location.size - first)
    if zlib.crc32(text, _CRC_BEGIN ^ 0xFFFFFFFF) ^ 0xFFFFFFFF != location.checksum:
        raise ValueError("the metadata of the volume group has another checksum")
    return text


def _group(device: str, metadata: dict[str, Any]) -> PhysicalVolume:
    ((name, group),) = [(key, value) for key, value in metadata.items() if isinstance(value, dict)]
    extent = _positive(group["extent_size"]) * _SECTOR
    devices = {
        key: (str(one["id"]).replace("-", ""), _positive(one["pe_start"]) * _SECTOR)
        for key, one in group["physical_volumes"].items()
    }
    volumes = tuple(
        _volume(key, one, extent, devices)
        for key, one in group.get("logical_volumes", {}).items()
        if "VISIBLE" in one["status"]
    )
    return PhysicalVolume(device, str(group["id"]), str(name), int(group["seqno"]), volumes)


def _volume(
    name: str, volume: dict[str, Any], extent: int, devices: dict[str, tuple[str, int]]
) -> LogicalVolume:
    parts = sorted(
        (one for one in volume.values() if isinstance(one, dict)), key=lambda one: int(one["start_extent"])
    )
    size = sum(_positive(part["extent_count"]) for part in parts) * extent
    segments: list[Segment] = []
    at = 0
    for part in parts:
        kind = str(part["type"])
        if kind != "striped" or part["stripe_count"] != 1:
            what = (
                f"it is of {part['stripe_count']} stripes" if kind == "striped" else f"it is of type {kind}"
            )
            return LogicalVolume(name, size, (), what)
        if int(part["start_extent"]) * extent != at:
            raise ValueError("a logical volume with a gap")
        key, first = part["stripes"]
        device, start = devices[key]
        if int(first) < 0:
            raise ValueError("a segment before the beginning")
        length = int(part["extent_count"]) * extent
        segments.append(Segment(length, device, start + int(first) * extent))
        at += length
    return LogicalVolume(name, size, tuple(segments), None if segments else "it has no segments")


def _positive(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value < 1 << 50:
        raise ValueError(f"{value!r} where a size should be")
    return value
