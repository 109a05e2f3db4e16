# SPDX-License-Identifier: GPL-2.0-or-later
"""Open the volumes of a point's disks and their file systems for `pitr files`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.endpoints.points.point import open_point
from pitr.endpoints.points.point_file import PointFile
from pitr.errors import FileSystemError, NoSuchFile, PitrError, ProgramFailed, UsageError
from pitr.guest import lvm, partitions
from pitr.guest.filesystem import READABLE, FileSystem, Node, VolumeFile, open_file_system
from pitr.guest.filesystem.known import INSTEAD, check_installed
from pitr.guest.filesystem.limits import bounded_memory, bounded_step, unbounded_memory
from pitr.guest.filesystem.paths import look_up
from pitr.guest.filesystem.volume import DiskRange
from pitr.jobs import known_damage
from pitr.jobs.files.guestfs_reader import FileReader, FoundVolume, GuestfsReader
from pitr.jobs.files.views import Views
from pitr.model import Backup, Stream
from pitr.reporting import Notify
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

    `note` says why changes may be missing; with `incomplete` they are missing.
    `name` is the value of --volume: a partition's number, GROUP/NAME, or 0 for a disk without partitions. `content` is
    the kind of content (see `pitr.guest.partitions`). `problem` says why pitr cannot read files from the volume, and
    `device` is set if libguestfs has found it.
    """

    disk: Stream
    name: str
    size: int
    content: str | None
    file: VolumeFile | None
    label: str = ""
    kind: str = ""
    note: str | None = None
    incomplete: bool = False
    problem: str | None = None
    device: str | None = None
    file_system: FileSystem | None = field(default=None, repr=False)

    @property
    def readable(self) -> bool:
        return self.problem is None and (self.device is not None or self.content in READABLE)


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
    """All volumes of the disks of one point. Only one thread may use them at a time.

    `guestfs` opens what pitr's own readers cannot, if libguestfs is installed and `reader` is None. With the reader
    "own" pitr does without it, with "guestfs" it does without its own readers.
    """

    def __init__(
        self, volumes: Sequence[GuestVolume], guestfs: GuestfsReader, reader: FileReader | None = None
    ) -> None:
        self._guestfs = guestfs
        self._reader = reader
        self._helps = reader is None and guestfs.is_installed
        self.all = list(volumes)

    def open(self, volume: GuestVolume) -> FileSystem:
        """Open the file system of the volume, once, and return it. Raises FileSystemError, StoredDamage."""
        if volume.file_system is None:
            try:
                self._set(volume, self._opened(volume))
            except FileSystemError as error:
                volume.problem = error.message
                raise
        if volume.file_system is None:
            raise RuntimeError("a volume was not opened")
        return volume.file_system

    def _opened(self, volume: GuestVolume) -> FileSystem:
        title = _title(volume)
        if volume.device is not None:
            return self._guestfs.open_device(volume.device, title)
        try:
            own = self._open_own(volume)
        except FileSystemError as error:
            try:
                other = self._open_with_guestfs(volume) if _may_hold_files(volume) else None
            except FileSystemError as second:
                raise FileSystemError(f"{error.message}. {second.message}", error.advice) from None
            if other is None:
                raise
            return other
        if own.incomplete and own.kind != "ntfs":
            # The kernel replays the journal. No NTFS driver of libguestfs does.
            return self._open_with_guestfs(volume) or own
        return own

    def _open_own(self, volume: GuestVolume) -> FileSystem:
        if volume.problem is not None or volume.file is None:
            advice = self._list() if volume.content == partitions.LVM else INSTEAD
            raise FileSystemError(f"cannot read {_title(volume)}: {volume.problem}", advice)
        return open_file_system(volume.file, volume.content, _title(volume))

    def _open_with_guestfs(self, volume: GuestVolume) -> FileSystem | None:
        """Open the volume with libguestfs; return None if pitr does without it."""
        if not self._helps:
            return None
        try:
            return self._guestfs.open(volume.disk, volume.name, _title(volume))
        except ProgramFailed as error:
            self._give_up(error)
            return None

    def _found_by_guestfs(self) -> list[GuestVolume]:
        """Return the volumes that only libguestfs can read, and add them to all volumes."""
        if not self._helps:
            return []
        try:
            found = self._guestfs.volumes()
        except ProgramFailed as error:
            self._give_up(error)
            return []
        readable = {(volume.disk.disk_id, volume.name) for volume in self.all if volume.readable}
        new = [_of_found(each) for each in found if (each.disk.disk_id, each.name) not in readable]
        self.all += new
        return [volume for volume in new if volume.readable]

    def _give_up(self, error: ProgramFailed) -> None:
        self._helps = False
        self._guestfs.notify(f"warning: {error.message}. pitr goes on with its own readers")

    def _set(self, volume: GuestVolume, file_system: FileSystem) -> None:
        volume.file_system = file_system
        volume.problem = None
        volume.label = volume.label or file_system.label
        volume.kind = file_system.kind
        volume.note = file_system.note
        volume.incomplete = file_system.incomplete

    def describe(self) -> None:
        """Open all readable file systems, to learn their kinds and labels."""
        for volume in self.all:
            if volume.readable and volume.device is None:
                try:
                    # Only to name the volume, pitr does not start libguestfs.
                    self._set(volume, self._open_own(volume))
                except FileSystemError as error:
                    volume.problem = error.message

    def volume_named(self, name: str) -> GuestVolume:
        """Return the volume of this name. Raises NoSuchFile, and UsageError if several disks have such a volume."""
        matches = [volume for volume in self.all if volume.name == name]
        matches = matches or [volume for volume in self._found_by_guestfs() if volume.name == name]
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
        self._search(readable, path, follow, places, unreadable)
        if not places and not unreadable:
            others = self._found_by_guestfs()
            readable += others
            self._search(others, path, follow, places, unreadable)
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

    def _search(
        self,
        volumes: Sequence[GuestVolume],
        path: str,
        follow: bool,
        places: list[Place],
        unreadable: list[FileSystemError],
    ) -> None:
        """Add the places that have the path, and the errors of volumes that cannot be read."""
        for volume in volumes:
            try:
                places.append(Place(volume, path, look_up(self.open(volume), path, follow=follow)))
            except NoSuchFile:
                continue
            except FileSystemError as error:
                unreadable.append(error)

    def _list(self) -> str:
        return f"There are: {_names(self.all) or 'none'}."


def _title(volume: GuestVolume) -> str:
    return f"volume {printable(volume.name)} of disk {printable(volume.disk.name)}"


def _may_hold_files(volume: GuestVolume) -> bool:
    return volume.content not in (partitions.LVM, "swap")


def _of_found(found: FoundVolume) -> GuestVolume:
    """Return a volume that libguestfs has found."""
    return GuestVolume(
        found.disk,
        found.name,
        found.size,
        found.content,
        None,
        label=found.label,
        kind=found.content,
        problem=found.problem,
        device=found.device,
    )


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
def open_volumes(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    notify: Notify,
    reader: FileReader | None = None,
    views: Views | None = None,
    folder: FrameFolder | None = None,
) -> Iterator[Volumes]:
    """Open these disks of a point and find their volumes. The memory is limited until the block exits.

    `reader` is the only one to use; None takes libguestfs where pitr's own reader cannot read everything. `views` goes
    with several points that are opened one after the other. `folder` keeps decompressed data on a disk. Raises
    StoredDamage if a chain is incomplete, ProgramMissing if the libraries are not installed.
    """
    if reader is FileReader.GUESTFS:
        with GuestfsReader(repository, backup, streams, notify, folder) as guestfs:
            yield Volumes([_of_found(found) for found in guestfs.volumes()], guestfs, reader)
        return
    check_installed()
    with ExitStack() as stack:
        stack.enter_context(repository.reading_vm(backup.vm))
        disks, met = list[tuple[Stream, PointFile]](), list[PitrError]()
        # At the end, because memory and time are limited while guest data is read.
        stack.callback(_record, repository, backup, met)
        cache = FrameCache(_CACHE, _AHEAD, folder)
        stack.callback(cache.close)
        # The maps of a chain grow with the disk; a guest cannot inflate them.
        with unbounded_memory():
            for stream in streams:
                with known_damage.remembering(repository, backup.vm.id, _CHECK):
                    point = open_point(repository, backup, stream, views.layers if views else None)
                cached = CachedPoint(
                    point, cache, lambda _, error: met.append(error), views.frames if views else None
                )
                file = PointFile(cached, views.reading(stream) if views else None)
                disks.append((stream, stack.enter_context(file)))
        # First of all, so that its thread does not read from a closed blob.
        stack.callback(cache.close)
        stack.enter_context(bounded_memory())
        rest = _where_the_rest_is([stream for stream in backup.streams if stream not in streams])
        guestfs = stack.enter_context(GuestfsReader(repository, backup, streams, notify, folder))
        yield Volumes(_find(disks, rest), guestfs, reader)


def _record(repository: Repository, backup: Backup, met: Sequence[PitrError]) -> None:
    if met:
        recorder = known_damage.Recorder(repository, backup.vm.id, _CHECK, _log.warning)
        for error in met:
            recorder.record(error)


def _where_the_rest_is(hidden: Sequence[Stream]) -> str:
    """Say why a part of a volume is missing, if these disks of the point were not opened."""
    if not hidden:
        return "a part of it is on a disk that this point does not hold"
    names = ", ".join(printable(stream.name) for stream in hidden)
    return f"a part of it is on a disk that --disk leaves out ({names}): run the command without --disk"


def _find(disks: Sequence[tuple[Stream, PointFile]], missing: str) -> list[GuestVolume]:
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
    return volumes + _logical(physical, missing)


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


def _logical(physical: Sequence[tuple[GuestVolume, lvm.PhysicalVolume]], missing: str) -> list[GuestVolume]:
    """Return the logical volumes of all groups, from the newest metadata of each group.

    `missing` is the problem of a volume with a part on a disk that was not opened.
    """
    devices = {metadata.device: volume for volume, metadata in physical}
    newest: dict[str, tuple[GuestVolume, lvm.PhysicalVolume]] = {}
    for volume, metadata in physical:
        known = newest.get(metadata.group_id)
        if metadata.group and (known is None or metadata.sequence > known[1].sequence):
            newest[metadata.group_id] = (volume, metadata)
    return [
        _of_logical(volume, f"{metadata.group}/{logical.name}", logical, devices, missing)
        for volume, metadata in newest.values()
        for logical in metadata.volumes
    ]


def _of_logical(
    on: GuestVolume,
    name: str,
    logical: lvm.LogicalVolume,
    devices: dict[str, GuestVolume],
    missing: str,
) -> GuestVolume:
    problem = logical.problem
    spans: list[DiskRange] = []
    for segment in logical.segments:
        device = devices.get(segment.device)
        if device is None or device.file is None:
            problem = missing
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
