# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of backup files that another program wrote; they become points with their original times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.errors import PitrError, UsageError
from pitr.jobs.imports import identify, recognize, store_point
from pitr.jobs.imports.compared import with_base
from pitr.jobs.imports.identify import DiskIdentity
from pitr.jobs.imports.store_point import DiskToImport, ImportedPoint, OpenSource, PointToImport, SourceTime
from pitr.model import Backup, Cause, DiskSettings, LeftOut, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.names import usable_id

Done = Callable[[ImportedPoint], None]
"""Called with each point after its commit, and with each point that the repository held already."""


@dataclass(frozen=True, slots=True)
class FileImport:
    """An import of files as backups of the VM `vm`, a name or an id; None for the VM that the files name.

    `full`: store whole disks without a comparison.
    """

    repository: Repository
    vm: str | None
    done: Done
    workers: int = DEFAULT_WORKERS
    progress: Progress | None = None
    full: bool = False


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One disk of one backup. Files with one `key` make one point; `parent` is the file that this one is based on.

    A file that is `unique` is recognized by its checkpoint and time, without reading its data. A file is `unfinished`
    if the other program was stopped while it wrote it; its disk is missing from the point.
    """

    path: Path
    key: str
    parent: Path | None
    disk_id: str | None
    disk_name: str
    time: SourceTime
    checkpoint: str | None
    note: str | None
    open: OpenSource
    unique: bool = False
    unfinished: bool = False


def import_files(
    run: FileImport, files: Sequence[BackupFile], reason: str, names: Mapping[str, str]
) -> list[ImportedPoint]:
    """Import the files, each point after the points it is based on. Return the points.

    `names` has the "vm-name" and "vm-id" that the files tell. Files that were imported before add nothing. An error
    keeps the points that were imported before it, and a note counts them. Raises UsageError, FormatError, BusyError.
    """
    vm = identify.choose_vm(run.repository.catalog, run.vm or names.get("vm-name"), names)
    stored = _Imported(run.repository, vm)
    points: list[ImportedPoint] = []
    with run.repository.lock_vm(vm):
        for group in _in_order(files):
            for known in stored.recognize(group):
                points.append(ImportedPoint(known, new=False))
                run.done(points[-1])
            for part in stored.unknown(group):
                points.append(_import_part(run, stored, part, reason, len(points)))
                run.done(points[-1])
    return points


def _import_part(
    run: FileImport, stored: _Imported, part: Sequence[BackupFile], reason: str, before: int
) -> ImportedPoint:
    whole = [file for file in part if not file.unfinished]
    try:
        point = store_point.store(
            run.repository,
            with_base(run.repository, stored.point(part, reason, full=run.full)),
            [file.open for file in whole],
            workers=run.workers,
            progress=run.progress,
        )
    except PitrError as error:
        names = ", ".join(file.path.name for file in part)
        error.add_note(f"it happened with {names}; points imported before: {before}")
        raise
    stored.add(whole, point.backup)
    return point


class _Imported:
    """The files that are imported already, and the disks that they belong to."""

    def __init__(self, repository: Repository, vm: VMName) -> None:
        self._repository = repository
        self._vm = vm
        self._streams: dict[Path, tuple[Backup, Stream]] = {}
        self._disks: dict[tuple[str | None, str], DiskIdentity] = {}

    def recognize(self, group: Sequence[BackupFile]) -> list[Backup]:
        """Return the points that were imported from these files before."""
        backups: dict[str, Backup] = {}
        for file in group:
            parent = self._streams.get(file.parent) if file.parent is not None else None
            if not file.unique or file.unfinished:
                continue
            known = recognize.imported_file(
                self._repository.catalog,
                self._vm,
                self._disk_identity(file).id,
                checkpoint_id=usable_id(file.checkpoint),
                times=(file.time.lo, file.time.point),
                parent=parent[1] if parent is not None else None,
            )
            if known is not None:
                self._streams[file.path] = known
                backups[known[0].backup_id] = known[0]
        return list(backups.values())

    def unknown(self, group: Sequence[BackupFile]) -> list[list[BackupFile]]:
        """Return the other files of a group in parts, one for each point that they are based on."""
        parts: dict[str | None, list[BackupFile]] = {}
        for file in group:
            if file.path not in self._streams and not file.unfinished:
                parent = self._streams[file.parent][0].backup_id if file.parent is not None else None
                parts.setdefault(parent, []).append(file)
        unfinished = [file for file in group if file.unfinished]
        return [part + unfinished for part in parts.values()]

    def point(self, part: Sequence[BackupFile], reason: str, *, full: bool) -> PointToImport:
        """Return the point that these files make."""
        whole = [file for file in part if not file.unfinished]
        parents = [self._streams[file.parent] for file in whole if file.parent is not None]
        return PointToImport(
            self._vm,
            max(file.time.point for file in whole),
            min(file.time.lo for file in whole),
            reason,
            tuple(self._disk(file) for file in whole),
            checkpoint_id=whole[0].checkpoint,
            from_checkpoint_id=parents[0][0].checkpoint_id if parents else None,
            left_out=self._left_out(part, [parent for parent, _ in parents]),
            full=full,
        )

    def add(self, files: Sequence[BackupFile], backup: Backup) -> None:
        """Remember the streams that were made from these files."""
        for file in files:
            stream = backup.stream_of(self._disk_identity(file).id)
            if stream is not None:
                self._streams[file.path] = (backup, stream)

    def _left_out(self, part: Sequence[BackupFile], parents: Sequence[Backup]) -> tuple[LeftOut, ...]:
        """Return the disks that the point lacks: those of unfinished files, and others of the points before it."""
        left_out = {
            self._disk_identity(file).id: LeftOut(
                self._disk_identity(file).id,
                self._disk_identity(file).name,
                f"{file.path.name} is incomplete: the program that wrote it was stopped",
                Cause.MISSING,
            )
            for file in part
            if file.unfinished
        }
        for parent in parents:
            disks: tuple[Stream | LeftOut, ...] = (*parent.streams, *parent.missing_disks)
            for disk in disks:
                reason = "no file of this backup holds the disk"
                left_out.setdefault(disk.disk_id, LeftOut(disk.disk_id, disk.name, reason, Cause.MISSING))
        held = {self._disk_identity(file).id for file in part if not file.unfinished}
        # In the order in which the record keeps them.
        return tuple(disk for disk_id, disk in sorted(left_out.items()) if disk_id not in held)

    def _disk_identity(self, file: BackupFile) -> DiskIdentity:
        key = (file.disk_id, file.disk_name)
        if key not in self._disks:
            self._disks[key] = identify.choose_disk(
                self._repository.catalog, self._vm, None, file.disk_id, file.disk_name
            )
        return self._disks[key]

    def _disk(self, file: BackupFile) -> DiskToImport:
        identity = self._disk_identity(file)
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
    # The time of an unfinished file is of no backup.
    pending.sort(key=lambda group: max((not file.unfinished, file.time.point) for file in group))
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
