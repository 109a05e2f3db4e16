# SPDX-License-Identifier: GPL-2.0-or-later
"""The volumes of a point's disks and the file systems on them: what `pitr files` looks into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.point import open_point
from pitr.endpoints.points.point_file import PointFile
from pitr.errors import FileSystemError, NoSuchFile, PitrError, UsageError
from pitr.guest import lvm, partitions
from pitr.guest.filesystem import READABLE, FileSystem, Node, VolumeFile, open_file_system
from pitr.guest.filesystem.known import INSTEAD, check_installed
from pitr.guest.filesystem.limits import bounded_memory, bounded_step, unbounded_memory
from pitr.guest.filesystem.paths import look_up
from pitr.guest.filesystem.volume import Segment
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.text import printable
from pitr.units import MIB

#: Decompressed frames that are kept, in bytes, for all disks of a point.
_CACHE = 64 * MIB
#: While one frame is written out or made sense of, one thread has the next one ready.
_AHEAD = 1


@dataclass(slots=True)
class GuestVolume:
    """A partition, logical volume or whole disk; sizes in bytes.

    `name` is what --volume takes: a partition's number, GROUP/NAME, or 0 for a disk without partitions. `content` is
    what was recognized (`pitr.guest.partitions`). `problem` says why no files can be read from it.
    """

    disk: Stream
    name: str
    size: int
    content: str | None
    file: VolumeFile | None
    label: str = ""
    kind: str = ""
    note: str | None = None
    problem: str | None = None
    file_system: FileSystem | None = field(default=None, repr=False)

    @property
    def readable(self) -> bool:
        return self.problem is None and self.content in READABLE


@dataclass(frozen=True, slots=True)
class Place:
    """A path that was found on a volume."""

    volume: GuestVolume
    path: str
    node: Node

    @property
    def file_system(self) -> FileSystem:
        if self.volume.file_system is None:
            raise ValueError("a place on a volume that was not opened")
        return self.volume.file_system


class Volumes:
    """All volumes of the disks of one point. Used by one thread at a time."""

    def __init__(self, found: Sequence[GuestVolume]) -> None:
        self.found = list(found)

    def open(self, volume: GuestVolume) -> FileSystem:
        """Its file system, opened once. Raises FileSystemError, StoredDamage."""
        if volume.file_system is not None:
            return volume.file_system
        where = f"volume {printable(volume.name)} of disk {printable(volume.disk.name)}"
        if volume.problem is not None or volume.file is None:
            advice = self._have(self.found) if volume.content == partitions.LVM else INSTEAD
            raise FileSystemError(f"{where} cannot be read: {volume.problem}", advice)
        try:
            volume.file_system = open_file_system(volume.file, volume.content, where)
        except FileSystemError as error:
            volume.problem = error.message
            raise
        volume.label = volume.file_system.label
        volume.kind = volume.file_system.kind
        volume.note = volume.file_system.note
        return volume.file_system

    def describe(self) -> None:
        """Open all file systems that can be, so that their kinds and labels are known."""
        for volume in self.found:
            if volume.readable:
                try:
                    self.open(volume)
                except FileSystemError:
                    continue  # its problem says it

    def named(self, name: str) -> GuestVolume:
        """Raises NoSuchFile, and UsageError when several disks have such a volume."""
        found = [volume for volume in self.found if volume.name == name]
        if not found:
            raise NoSuchFile(f"there is no volume {name!r} at this point", self._have(self.found))
        if len(found) > 1:
            disks = ", ".join(f"{printable(one.disk.name)} ({one.disk.disk_id})" for one in found)
            raise UsageError(f"several disks have a volume {name!r}", f"Choose one with --disk: {disks}.")
        return found[0]

    def locate(self, path: str, name: str | None = None, *, follow: bool = True) -> Place:
        """Find a path on the volume of this name, or on the only one that has it.

        Raises NoSuchFile when none has it, UsageError when several have, FileSystemError, StoredDamage. `follow`:
        whether a link that the path ends in is followed.
        """
        if name is not None:
            volume = self.named(name)
            return Place(volume, path, look_up(self.open(volume), path, follow=follow))
        places: list[Place] = []
        unreadable: list[FileSystemError] = []
        readable = [volume for volume in self.found if volume.readable]
        for volume in readable:
            try:
                places.append(Place(volume, path, look_up(self.open(volume), path, follow=follow)))
            except NoSuchFile:
                continue
            except FileSystemError as error:
                unreadable.append(error)
        if len(places) == 1:
            return places[0]
        if places:
            raise UsageError(
                f"several volumes have {printable(path)}",
                f"Choose one with --volume: {_names(place.volume for place in places)}.",
            )
        if unreadable:
            raise unreadable[0]
        if not readable:
            raise FileSystemError(
                "no volume of this point holds a file system that can be read",
                f"{self._have(self.found)} {INSTEAD}",
            )
        raise NoSuchFile(
            f"there is no {printable(path)} at this point",
            f"It was looked for on: {_names(readable)}. What is mounted has its paths on its own volume: /log of "
            "the volume that is mounted on /var.",
        )

    def _have(self, volumes: Sequence[GuestVolume]) -> str:
        return f"There are: {_names(volumes) or 'none'}."


def _names(volumes: Iterator[GuestVolume] | Sequence[GuestVolume]) -> str:
    return ", ".join(
        f"{printable(volume.name)} ({volume.content or 'no file system recognized'}, "
        f"disk {printable(volume.disk.name)})"
        for volume in volumes
    )


def same_place(
    before: Volumes, after: Volumes, path: str, name: str | None
) -> tuple[Place | None, Place | None]:
    """A path at two points, on the volume of one name and disk; None where it is not there.

    Raises NoSuchFile when neither point has it, UsageError when several volumes have it.
    """
    try:
        new = after.locate(path, name)
    except NoSuchFile:
        # It can have been removed.
        return before.locate(path, name), None
    twins = [
        volume
        for volume in before.found
        if volume.name == new.volume.name and volume.disk.disk_id == new.volume.disk.disk_id
    ]
    if not twins:
        raise NoSuchFile(
            f"the earlier point has no volume {printable(new.volume.name)} on disk {printable(new.volume.disk.name)}"
        )
    try:
        return Place(twins[0], path, look_up(before.open(twins[0]), path)), new
    except NoSuchFile:
        return None, new


@contextmanager
def open_volumes(repository: Repository, backup: Backup, streams: Sequence[Stream]) -> Iterator[Volumes]:
    """Open these disks of a point and find their volumes. Memory is bounded while the block runs.

    Raises StoredDamage when a chain is not whole, ProgramMissing without the libraries.
    """
    check_installed()
    with ExitStack() as stack:
        stack.enter_context(repository.reading_vm(backup.vm))
        disks: list[tuple[Stream, PointFile]] = []
        cache = stack.enter_context(FrameCache(_CACHE, _AHEAD))
        # A chain's maps grow with the disk, and are no guest's doing.
        with unbounded_memory():
            for stream in streams:
                file = PointFile(CachedPoint(open_point(repository, backup, stream), cache))
                disks.append((stream, stack.enter_context(file)))
        stack.enter_context(bounded_memory())
        yield Volumes(_find(disks))


def _find(disks: Sequence[tuple[Stream, PointFile]]) -> list[GuestVolume]:
    found: list[GuestVolume] = []
    physical: list[tuple[GuestVolume, lvm.PhysicalVolume]] = []
    for stream, file in disks:
        for part in partitions.look_at(file.read_at, file.size).parts:
            volume = _of_part(stream, file, part)
            found.append(volume)
            if part.content == partitions.LVM and volume.file is not None:
                try:
                    with bounded_step():
                        physical.append((volume, lvm.read_physical_volume(volume.file)))
                except PitrError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a library makes of damaged metadata
                    volume.problem = (
                        f"its LVM metadata is damaged ({type(error).__name__}: {str(error)[:200]})"
                    )
    return found + _logical(physical)


def _of_part(stream: Stream, file: PointFile, part: partitions.Partition) -> GuestVolume:
    """A partition, or the whole disk. What is on it is said; whether it can be read is found out later."""
    volume = VolumeFile([Segment(part.length, file.read_at, part.start, stream.disk_id)])
    problem = None
    if part.content is None:
        problem = "no file system is recognized"
    elif part.content == partitions.LVM:
        problem = "its logical volumes are listed by themselves"
    elif part.content not in READABLE:
        problem = f"{part.content} is not read here"
    return GuestVolume(
        stream, str(part.number), part.length, part.content, volume, kind=part.content or "", problem=problem
    )


def _logical(physical: Sequence[tuple[GuestVolume, lvm.PhysicalVolume]]) -> list[GuestVolume]:
    """The logical volumes of all groups; the newest metadata of a group counts."""
    devices = {one.device: volume for volume, one in physical}
    newest: dict[str, tuple[GuestVolume, lvm.PhysicalVolume]] = {}
    for volume, one in physical:
        known = newest.get(one.group_id)
        if one.group and (known is None or one.sequence > known[1].sequence):
            newest[one.group_id] = (volume, one)
    return [
        _of_logical(volume, one.group, logical, devices)
        for volume, one in newest.values()
        for logical in one.volumes
    ]


def _of_logical(
    on: GuestVolume, group: str, logical: lvm.LogicalVolume, devices: dict[str, GuestVolume]
) -> GuestVolume:
    name, problem = f"{group}/{logical.name}", logical.problem
    spans: list[Segment] = []
    for segment in logical.segments:
        device = devices.get(segment.device)
        if device is None or device.file is None:
            problem = "a part of it lies on a disk that is not at hand"
        elif segment.offset + segment.length > device.size:
            problem = "a part of it lies outside of its physical volume"
        else:
            spans += device.file.spans(segment.offset, segment.length)
    if problem is not None:
        return GuestVolume(on.disk, name, logical.size, None, None, problem=problem)
    file = VolumeFile(spans)
    content = partitions.content_of(file.read_at, file.size)
    if content not in READABLE:
        problem = f"{content} is not read here" if content else "no file system is recognized"
    return GuestVolume(on.disk, name, logical.size, content, file, kind=content or "", problem=problem)
