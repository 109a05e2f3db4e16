# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration: backups that another program left as files become points with their original times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.errors import PitrError, UsageError
from pitr.jobs.imports import identify, store_point
from pitr.jobs.imports.store_point import DiskToTakeIn, OpenSource, PointToTakeIn, SourceTime
from pitr.model import Backup, DiskSettings, Stream
from pitr.reporting import Progress
from pitr.repository import Repository

_NO_SETTINGS = "how the disk was set up is not known: it is restored as a thin qcow2 disk"

Done = Callable[[Backup], None]
"""Called with each point when it is committed."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One disk of one backup. Files with one `key` are of one point; `parent` is the file that this one stands on."""

    path: Path
    key: str
    parent: Path | None
    disk_id: str | None
    disk_name: str
    time: SourceTime
    checkpoint: str | None
    note: str | None
    open: OpenSource


def import_files(
    repository: Repository,
    vm_name: str | None,
    files: Sequence[BackupFile],
    reason: str,
    workers: int,
    progress: Progress | None,
    done: Done,
) -> list[Backup]:
    vm = identify.choose_vm(repository.catalog, vm_name, {})
    made: list[Backup] = []
    stored: dict[Path, tuple[Backup, Stream]] = {}
    known: dict[tuple[str | None, str], identify.DiskIdentity] = {}
    with repository.lock_vm(vm):
        for group in _in_order(files):
            disks: list[DiskToTakeIn] = []
            for file in group:
                key = (file.disk_id, file.disk_name)
                if key not in known:
                    known[key] = identify.choose_disk(
                        repository.catalog, vm, None, file.disk_id, file.disk_name
                    )
                identity = known[key]
                parent = stored[file.parent] if file.parent is not None else None
                disks.append(
                    DiskToTakeIn(
                        identity.id,
                        identity.name,
                        parent,
                        identity.settings or DiskSettings(),
                        store_point.notes((file.note, None if identity.settings else _NO_SETTINGS)),
                    )
                )
            new = PointToTakeIn(
                vm,
                max(file.time.point for file in group),
                min(file.time.lo for file in group),
                reason,
                tuple(disks),
                checkpoint_id=group[0].checkpoint,
                from_checkpoint_id=next(
                    (stored[file.parent][0].checkpoint_id for file in group if file.parent is not None), None
                ),
            )
            try:
                backup = store_point.take_in(
                    repository, new, [file.open for file in group], workers=workers, progress=progress
                )
            except PitrError as error:
                error.add_note(
                    f"it happened with {', '.join(file.path.name for file in group)}; points imported before: "
                    f"{len(made)}"
                )
                raise
            for file, stream in zip(group, backup.streams, strict=True):
                stored[file.path] = (backup, stream)
            made.append(backup)
            done(backup)
    return made


def _in_order(files: Sequence[BackupFile]) -> Iterator[list[BackupFile]]:
    """The files of each point, a point after those that it stands on, else in the order of time.

    Files of one key are one point where all that stand on something stand on one point; else one each.
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
            raise UsageError(f"{pending[0][0].path.name} stands on itself")
        pending.remove(following)
        ready.update(file.path for file in following)
        yield following
