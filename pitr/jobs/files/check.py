# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the files of a point for the work of an attacker: content that does not fit its type, and known names.

pitr looks at the names of all files, and reads the first bytes of a sample. The sample depends only on the paths, so
that the samples of two points have most files in common.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import blake3

from pitr import times
from pitr.errors import FileSystemError, FormatError
from pitr.guest import file_types
from pitr.guest.filesystem import EntryKind, FileContent, FileSystem, Node
from pitr.guest.filesystem.paths import look_up
from pitr.guest.ransom_names import is_ransom_name
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.list import list_files
from pitr.jobs.files.volumes import GuestVolume, Place, Volumes, open_volumes
from pitr.jobs.unusual import Unusual, median
from pitr.jobs.unusual_files import FEWEST_FILES, are_names_unusual, is_content_unusual, unusual_of
from pitr.model import Backup, Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, content_checks
from pitr.repository.content_checks import ContentCheck
from pitr.repository.store import ObjectMissing

#: So many files are read unless the user says otherwise, and so many names are looked at.
SAMPLE = 1000
MOST_NAMES = 2_000_000
#: The usual values are the medians of so many earlier points.
_MOST_EARLIER = 30
#: So many files of each sort are kept for people to look at.
_MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file that a check names: its disk, volume and path."""

    disk_id: str
    volume: str
    path: str


@dataclass(slots=True)
class SampledFiles:
    """What a look at the files of a point found. `misfits` and `named` have the first paths, the counts have all.

    `judgeable` files have a type that pitr can judge; of these, `sampled` were read. `problems` are folders, volumes
    and files that cannot be read: path and message.
    """

    files: int = 0
    judgeable: int = 0
    sampled: int = 0
    misfit_count: int = 0
    name_count: int = 0
    complete: bool = True
    misfits: list[SeenFile] = field(default_factory=list)
    named: list[SeenFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.misfit_count / self.sampled if self.sampled else 0.0


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """The result of a check of a point; `compared` are the points that the usual values are of, newest first."""

    backup: Backup
    seen: SampledFiles
    check: ContentCheck
    compared: tuple[Backup, ...]

    @property
    def unusual(self) -> tuple[Unusual, ...]:
        return unusual_of(self.check)


@dataclass(frozen=True, slots=True)
class CheckRun:
    """How points are checked: `sample` files of each are read."""

    repository: Repository
    sample: int = SAMPLE
    reader: FileReader | None = None
    notify: Notify = lambda line: None
    progress: Progress | None = None


def check_files(
    run: CheckRun, backup: Backup, earlier: Sequence[Backup], since: Backup | None = None
) -> CheckedFiles:
    """Check the files of a point, compare it with earlier ones, and store the result.

    `earlier` are the points of the VM before it, newest first. The usual values are those of `since`, or of the last
    checks of earlier points. If there is none and the point looks unusual, the oldest one is checked, too. Raises
    StoredDamage, ProgramMissing, RepositoryError.
    """
    file_types.check_installed()
    seen = sampled_files(run, backup, backup.streams)
    known = _known(run.repository, [since] if since is not None else earlier)
    if since is not None and not known:
        known = [(since, _checked_alone(run, since))]
    elif not known and earlier and _is_suspicious(seen):
        oldest = earlier[-1]
        run.notify(
            f"no earlier point was checked: pitr compares with the oldest one, of {times.for_people(oldest.point)}"
        )
        known = [(oldest, _checked_alone(run, oldest))]
    shares = [check.share for _, check in known if check.sampled >= FEWEST_FILES]
    usual_share = median(shares) if shares else None
    usual_names = round(median(check.names for _, check in known)) if known else None
    check = _result(backup, seen, usual_share, usual_names)
    content_checks.add(run.repository.store, check)
    return CheckedFiles(backup, seen, check, tuple(each for each, _ in known))


def _is_suspicious(seen: SampledFiles) -> bool:
    return is_content_unusual(seen.sampled, seen.share, 0.0) or are_names_unusual(seen.name_count, None)


def _checked_alone(run: CheckRun, backup: Backup) -> ContentCheck:
    """Check a point that others are compared with, and store the result."""
    check = _result(backup, sampled_files(run, backup, backup.streams), None, None)
    content_checks.add(run.repository.store, check)
    return check


def _result(
    backup: Backup, seen: SampledFiles, usual_share: float | None, usual_names: int | None
) -> ContentCheck:
    unusual = []
    if is_content_unusual(seen.sampled, seen.share, usual_share):
        unusual.append("content")
    if are_names_unusual(seen.name_count, usual_names):
        unusual.append("names")
    return ContentCheck(
        backup_id=backup.backup_id,
        vm_id=backup.vm.id,
        time=times.now(),
        files=seen.files,
        complete=seen.complete and not seen.problems,
        sampled=seen.sampled,
        misfits=seen.misfit_count,
        names=seen.name_count,
        usual_share=usual_share,
        usual_names=usual_names,
        unusual=tuple(unusual),
    )


def _known(repository: Repository, points: Sequence[Backup]) -> list[tuple[Backup, ContentCheck]]:
    """Return the last checks of these points, as far as they were checked: those of the newest points."""
    if not points:
        return []
    last = content_checks.last_of_points(repository.store, points[0].vm.id)
    found: list[tuple[Backup, ContentCheck]] = []
    for backup in points:
        stored = last.get(backup.backup_id)
        # What was unusual is no measure.
        if stored is None or (stored.is_unusual and len(points) > 1):
            continue
        try:
            found.append((backup, content_checks.read(repository.store, stored.name)))
        except (FormatError, ObjectMissing):
            continue
        if len(found) == _MOST_EARLIER:
            break
    return found


def sampled_files(run: CheckRun, backup: Backup, streams: Sequence[Stream]) -> SampledFiles:
    """Look at the files of these disks of a point. Raises StoredDamage, ProgramMissing."""
    seen = SampledFiles()
    with open_volumes(run.repository, backup, streams, run.notify, run.reader) as volumes:
        chosen = _Sample(run.sample)
        for number, volume in enumerate(volumes.all):
            if volume.readable:
                _look_at_names(volumes, volume, number, chosen, seen)
        seen.judgeable = chosen.offered
        for done, each in enumerate(sorted(chosen.files)):
            _read(volumes, each, seen)
            if run.progress is not None:
                run.progress((done + 1) * file_types.HEAD, len(chosen.files) * file_types.HEAD)
    return seen


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """A file that may be read, ordered by volume and path."""

    volume: int
    path: str
    extension: str = field(compare=False)
    node: Node = field(compare=False)


class _Sample:
    """The files with the smallest digests of their paths, at most `size`."""

    def __init__(self, size: int) -> None:
        self.offered = 0
        self._size = size
        self._heap: list[tuple[int, _Candidate]] = []

    @property
    def files(self) -> list[_Candidate]:
        return [candidate for _, candidate in self._heap]

    def offer(self, candidate: _Candidate) -> None:
        self.offered += 1
        path = candidate.path.encode("utf-8", "surrogatepass")
        # The heap has the largest first.
        key = -int.from_bytes(blake3.blake3(path).digest(8), "big")
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (key, candidate))
        elif (key, candidate) > self._heap[0]:
            heapq.heapreplace(self._heap, (key, candidate))


def _look_at_names(
    volumes: Volumes, volume: GuestVolume, number: int, chosen: _Sample, seen: SampledFiles
) -> None:
    try:
        root = Place(volume, "/", look_up(volumes.open(volume), "/"))
        for listed in list_files(root, recursive=True):
            node = listed.node
            if node is None:
                seen.problems.append((listed.path, listed.problem or "it cannot be read"))
                continue
            if node.kind is not EntryKind.FILE:
                continue
            if seen.files == MOST_NAMES:
                seen.complete = False
                return
            seen.files += 1
            name = listed.path.rpartition("/")[2]
            if is_ransom_name(name):
                seen.name_count += 1
                _keep(seen.named, volume, listed.path)
            extension = file_types.judged_extension(name)
            if extension is not None and node.size >= file_types.SMALLEST and node.unreadable is None:
                chosen.offer(_Candidate(number, listed.path, extension, node))
    except FileSystemError as error:
        seen.problems.append((f"volume {volume.name}", error.message))


def _read(volumes: Volumes, candidate: _Candidate, seen: SampledFiles) -> None:
    volume = volumes.all[candidate.volume]
    try:
        head = _head(volumes.open(volume), candidate.node)
    except FileSystemError as error:
        seen.problems.append((candidate.path, error.message))
        return
    seen.sampled += 1
    if not file_types.fits(candidate.extension, head):
        seen.misfit_count += 1
        _keep(seen.misfits, volume, candidate.path)


def _head(file_system: FileSystem, node: Node) -> bytes:
    """Return the first bytes of a file."""
    content = file_system.content(node)
    head = bytearray(min(file_types.HEAD, content.size))
    wanted = [(start, min(length, len(head) - start)) for start, length in content.data if start < len(head)]
    for offset, data in file_system.pieces(FileContent(content.size, wanted, content.read)):
        head[offset : offset + len(data)] = data
    return bytes(head)


def _keep(examples: list[SeenFile], volume: GuestVolume, path: str) -> None:
    if len(examples) < _MOST_EXAMPLES:
        examples.append(SeenFile(volume.disk.disk_id, volume.name, path))
