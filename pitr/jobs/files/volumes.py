# SPDX-License-Identifier: GPL-2.0-or-later
"""Open the volumes of a point's disks and their file systems for `pitr files`."""

from __future__ import annotations

import logging
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
from pitr.guest.filesystem.volume import DiskRange
from pitr.jobs import known_damage
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.text import named, printable
from pitr.units import MIB

#: The size of the cache of decompressed frames, for all disks of a point.
_CACHE = 64 * MIB
#: One thread reads the next frame while the current one is in use.
_AHEAD = 1

#: What findings of damage say found them.
_CHECK = "files"
_log = logging.getLogger(__name__)

_UNKNOWN = "no known file system found"
CIRCLE = "this folder is also one of its parents: the folders form a circle"


@dataclass(slots=True)
class GuestVolume:
    """A partition, logical volume or whole disk; sizes in bytes.

    `name` is the value of --volume: a partition's number, GROUP/NAME, or 0 for a disk without partitions. `content` is
    the kind of content (see `pitr.guest.partitions`). `problem` says why pitr cannot read files from the volume.
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
    """An existing path on a volume."""

    volume: GuestVolume
    path: str
    node: Node

    @property
    def file_system(self) -> FileSystem:
        if self.volume.file_system is None:
            raise ValueError("a place on a volume that was not opened")
        return self.volume.file_system


class Volumes:
    """All volumes of the disks of one point. Only one thread may use them at a time."""

    def __init__(self, volumes: Sequence[GuestVolume]) -> None:
        self.all = list(volumes)

    def open(self, volume: GuestVolume) -> FileSystem:
        """Open the file system of the volume, once, and return it. Raises FileSystemError, StoredDamage."""
        if volume.file_system is not None:
            return volume.file_system
        title = f"volume {printable(volume.name)} of disk {printable(volume.disk.name)}"
        if volume.problem is not None or volume.file is None:
            advice = self._list() if volume.content == partitions.LVM else INSTEAD
            raise FileSystemError(f"cannot read {title}: {volume.problem}", advice)
        try:
            volume.file_system = open_file_system(volume.file, volume.content, title)
        except FileSystemError as error:
            volume.problem = error.message
            raise
        volume.label = volume.file_system.label
        volume.kind = volume.file_system.kind
        volume.note = volume.file_system.note
        return volume.file_system

    def describe(self) -> None:
        """Open all readable file systems, to learn their kinds and labels."""
        for volume in self.all:
            if volume.readable:
                try:
                    self.open(volume)
                except FileSystemError:
                    continue  # now the volume has a problem

    def volume_named(self, name: str) -> GuestVolume:
        """Return the volume of this name. Raises NoSuchFile, and UsageError if several disks have such a volume."""
        matches = [volume for volume in self.all if volume.name == name]
        if not matches:
            raise NoSuchFile(f"there is no volume {name!r} at this point", self._list())
        if len(matches) > 1:
            disks = ", ".join(named(volume.disk.name, volume.disk.disk_id) for volume in matches)
            raise UsageError(f"several disks have a volume {name!r}", f"Choose one with --disk: {disks}.")
        return matches[0]

    def locate(self, path: str, name: str | None = None, *, follow: bool = True) -> Place:
        """Find a path on the volume of this name, or else on the only volume that has the path.

        `follow`: follow a link at the end of the path. Raises NoSuchFile if no volume has the path, UsageError if
        several have it, FileSystemError, StoredDamage.
        """
        if name is not None:
            volume = self.volume_named(name)
            return Place(volume, path, look_up(self.open(volume), path, follow=follow))
        places: list[Place] = []
        unreadable: list[FileSystemError] = []
        readable = [volume for volume in self.all if volume.readable]
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
                "no volume of this point holds a readable file system",
                f"{self._list()} {INSTEAD}",
            )
        raise NoSuchFile(
            f"there is no {printable(path)} at this point",
            f"pitr searched: {_names(readable)}. Paths begin at the volume: if a volume was mounted on /var, then "
            "/var/log is /log on this volume.",
        )

    def _list(self) -> str:
        return f"There are: {_names(self.all) or 'none'}."


def _names(volumes: Iterator[GuestVolume] | Sequence[GuestVolume]) -> str:
    return ", ".join(
        f"{printable(volume.name)} ({volume.content or 'no known file system'}, "
        f"disk {printable(volume.disk.name)})"
        for volume in volumes
    )


def same_place(
    before: Volumes, after: Volumes, path: str, name: str | None
) -> tuple[Place | None, Place | None]:
    """Find a path at two points, on the same volume of the same disk; None if it does not exist at that point.

    Raises NoSuchFile if neither point has the path, UsageError if several volumes have it.
    """
    try:
        new = after.locate(path, name)
    except NoSuchFile:
        # It may have been removed.
        return before.locate(path, name), None
    twins = [
        volume
        for volume in before.all
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
    """Open these disks of a point and find their volumes. The memory is limited until the block exits.

    Raises StoredDamage if a chain is incomplete, ProgramMissing if the libraries are not installed.
    """
    check_installed()
    with ExitStack() as stack:
        stack.enter_context(repository.reading_vm(backup.vm))
        disks: list[tuple[Stream, PointFile]] = []
        met: list[PitrError] = []
        # At the end, because memory and time are limited while guest data is read.
        stack.callback(_record, repository, backup, met)
        cache = stack.enter_context(FrameCache(_CACHE, _AHEAD))
        # The maps of a chain grow with the disk; a guest cannot inflate them.
        with unbounded_memory():
            for stream in streams:
                with known_damage.remembering(repository, backup.vm.id, _CHECK):
                    point = open_point(repository, backup, stream)
                file = PointFile(CachedPoint(point, cache, lambda _, error: met.append(error)))
                disks.append((stream, stack.enter_context(file)))
        stack.enter_context(bounded_memory())
        yield Volumes(_find(disks))


def _record(repository: Repository, backup: Backup, met: Sequence[PitrError]) -> None:
    if met:
        recorder = known_damage.Recorder(repository, backup.vm.id, _CHECK, _log.warning)
        for error in met:
            recorder.record(error)


def _find(disks: Sequence[tuple[Stream, PointFile]]) -> list[GuestVolume]:
    volumes: list[GuestVolume] = []
    physical: list[tuple[GuestVolume, lvm.PhysicalVolume]] = []
    for stream, file in disks:
        for part in partitions.look_at(file.read_at, file.size).parts:
            volume = _of_part(stream, file, part)
            volumes.append(volume)
            if part.content == partitions.LVM and volume.file is not None:
                try:
                    with bounded_step():
                        physical.append((volume, lvm.read_physical_volume(volume.file)))
                except PitrError:
                    raise
                except Exception as error:  # noqa: BLE001 - damaged metadata can raise anything
                    volume.problem = (
                        f"its LVM metadata is damaged ({type(error).__name__}: {str(error)[:200]})"
                    )
    return volumes + _logical(physical)


def _of_part(stream: Stream, file: PointFile, part: partitions.Partition) -> GuestVolume:
    """Return a partition, or the whole disk, with its content; `Volumes.open` checks whether it is readable."""
    volume = VolumeFile([DiskRange(part.length, file.read_at, part.start, stream.disk_id)])
    problem = None
    if part.content is None:
        problem = _UNKNOWN
    elif part.content == partitions.LVM:
        problem = "its logical volumes are listed separately"
    elif part.content not in READABLE:
        problem = f"{part.content} is not supported"
    return GuestVolume(
        stream, str(part.number), part.length, part.content, volume, kind=part.content or "", problem=problem
    )


def _logical(physical: Sequence[tuple[GuestVolume, lvm.PhysicalVolume]]) -> list[GuestVolume]:
    """Return the logical volumes of all groups, from the newest metadata of each group."""
    devices = {metadata.device: volume for volume, metadata in physical}
    newest: dict[str, tuple[GuestVolume, lvm.PhysicalVolume]] = {}
    for volume, metadata in physical:
        known = newest.get(metadata.group_id)
        if metadata.group and (known is None or metadata.sequence > known[1].sequence):
            newest[metadata.group_id] = (volume, metadata)
    return [
        _of_logical(volume, metadata.group, logical, devices)
        for volume, metadata in newest.values()
        for logical in metadata.volumes
    ]


def _of_logical(
    on: GuestVolume, group: str, logical: lvm.LogicalVolume, devices: dict[str, GuestVolume]
) -> GuestVolume:
    name, problem = f"{group}/{logical.name}", logical.problem
    spans: list[DiskRange] = []
    for segment in logical.segments:
        device = devices.get(segment.device)
        if device is None or device.file is None:
            problem = "a part of it is on a disk that was not opened"
        elif segment.offset + segment.length > device.size:
            problem = "a part of it is outside its physical volume"
        else:
            spans += device.file.spans(segment.offset, segment.length)
    if problem is not None:
        return GuestVolume(on.disk, name, logical.size, None, None, problem=problem)
    file = VolumeFile(spans)
    content = partitions.content_of(file.read_at, file.size)
    if content not in READABLE:
        problem = f"{content} is not supported" if content else _UNKNOWN
    return GuestVolume(on.disk, name, logical.size, content, file, kind=content or "", problem=problem)
