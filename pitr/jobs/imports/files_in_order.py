# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of backup files that another program wrote; they become points with their original times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.errors import PitrError, UsageError
from pitr.jobs.imports import identify, store_point
from pitr.jobs.imports.identify import DiskIdentity
from pitr.jobs.imports.store_point import DiskToImport, OpenSource, PointToImport, SourceTime
from pitr.model import Backup, DiskSettings, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository

Done = Callable[[Backup], None]
"""Called with each point after its commit."""


@dataclass(frozen=True, slots=True)
class FileImport:
    """An import of files as backups of the VM `vm`, a name or an id."""

    repository: Repository
    vm: str
    done: Done
    workers: int = DEFAULT_WORKERS
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One disk of one backup. Files with one `key` make one point; `parent` is the file that this one is based on."""

    path: Path
    key: str
    parent: Path | None
    disk_id: str | None
    disk_name: str
    time: SourceTime
    checkpoint: str | None
    note: str | None
    open: OpenSource


def import_files(run: FileImport, files: Sequence[BackupFile], reason: str) -> list[Backup]:
    """Import the files, each point after the points it is based on. Return the points.

    An error keeps the points that were imported before it, and a note counts them. Raises UsageError, FormatError,
    BusyError.
    """
    vm = identify.choose_vm(run.repository.catalog, run.vm, {})
    stored = _Imported(run.repository, vm)
    points: list[Backup] = []
    with run.repository.lock_vm(vm):
        for group in _in_order(files):
            new = stored.point(group, reason)
            try:
                backup = store_point.store(
                    run.repository,
                    new,
                    [file.open for file in group],
                    workers=run.workers,
                    progress=run.progress,
                )
            except PitrError as error:
                names = ", ".join(file.path.name for file in group)
                error.add_note(f"it happened with {names}; points imported before: {len(points)}")
                raise
            stored.add(group, backup)
            points.append(backup)
            run.done(backup)
    return points


class _Imported:
    """The files that are imported already, and the disks that they belong to."""

    def __init__(self, repository: Repository, vm: VMName) -> None:
        self._repository = repository
        self._vm = vm
        self._streams: dict[Path, tuple[Backup, Stream]] = {}
        self._disks: dict[tuple[str | None, str], DiskIdentity] = {}

    def point(self, group: Sequence[BackupFile], reason: str) -> PointToImport:
        """Return the point that these files make."""
        parents = [self._streams[file.parent] for file in group if file.parent is not None]
        return PointToImport(
            self._vm,
            max(file.time.point for file in group),
            min(file.time.lo for file in group),
            reason,
            tuple(self._disk(file) for file in group),
            checkpoint_id=group[0].checkpoint,
            from_checkpoint_id=parents[0][0].checkpoint_id if parents else None,
        )

    def add(self, group: Sequence[BackupFile], backup: Backup) -> None:
        """Remember the streams that were made from these files."""
        for file, stream in zip(group, backup.streams, strict=True):
            self._streams[file.path] = (backup, stream)

    def _disk(self, file: BackupFile) -> DiskToImport:
        key = (file.disk_id, file.disk_name)
        if key not in self._disks:
            self._disks[key] = identify.choose_disk(
                self._repository.catalog, self._vm, None, file.disk_id, file.disk_name
            )
        identity = self._disks[key]
        return DiskToImport(
            identity.id,
            identity.name,
            self._streams[file.parent] if file.parent is not None else None,
            identity.settings or DiskSettings(),
            store_point.join_notes((file.note, None if identity.settings else store_point.NO_SETTINGS)),
        )


def _in_order(files: Sequence[BackupFile]) -> Iterator[list[BackupFile]]:
    """Yield the files of each point, oldest first, each point after the points it is based on.

    Files with one key make one point if their parents, too, have one key; else each makes a point of its own.
    """
    groups: dict[str, list[BackupFile]] = {}
    for file in files:
        groups.setdefault(file.key, []).append(file)
    key_of = {file.path: file.key for file in files}
    pending: list[list[BackupFile]] = []
    for group in groups.values():
        parents = {key_of.get(file.parent) for file in group if file.parent is not None}
        pending += [group] if len(parents) < 2 else [[file] for file in group]
    pending.sort(key=lambda group: max(file.time.point for file in group))
    ready: set[Path] = set()
    while pending:
        following = next(
            (
                group
                for group in pending
                if all(file.parent is None or file.parent in ready for file in group)
            ),
            None,
        )
        if following is None:
            raise UsageError(f"{pending[0][0].path.name} is based on itself")
        pending.remove(following)
        ready.update(file.path for file in following)
        yield following
