# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration: backups that another program left as files become points with their original times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pitr.copier.copy import DEFAULT_WORKERS, Progress
from pitr.copier.protocols import Source
from pitr.copier.streamed import StreamedSource
from pitr.endpoints.images.qcow2_layer import ImageInfo, Qcow2LayerSource, image_info
from pitr.endpoints.streams.input import open_input
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError, PitrError, UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import identify, store_point
from pitr.jobs.imports.store_point import DiskToTakeIn, OpenSource, PointToTakeIn, SourceTime
from pitr.model import Backup, DiskSettings, Stream
from pitr.repository import Repository
from pitr.units import printable

#: As ovirt-engine-sdk's example backup_vm.py names its files.
_BACKUP_VM = re.compile(r"(\d{12})\.([^.]+)\.([^.]+)\.(full|incremental)\.qcow2")
_TO_THE_MINUTE = "its time is to the minute, from the file's name"
_NO_SETTINGS = "how the disk was set up is not known: it is restored as a thin qcow2 disk"

Done = Callable[[Backup], None]
"""Called with each point when it is committed."""


@dataclass(frozen=True, slots=True)
class _File:
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


def import_virtnbdbackup(
    repository: Repository,
    folder: Path,
    vm: str | None,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    done: Done,
) -> list[Backup]:
    """Import all backups of the `*.data` files in a folder. Their chain is what their checkpoints say.

    Raises UsageError where a link of it is missing, before anything is imported; FormatError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "Name the folder with virtnbdbackup's *.data files.")
    paths = sorted(folder.glob("*.data"))
    if not paths:
        raise UsageError(f"there are no *.data files in {folder}")
    metas = {path: _meta(path) for path in paths}
    by_name: dict[tuple[str, str], Path] = {}
    for path, meta in metas.items():
        before = by_name.setdefault((meta.disk_name, meta.checkpoint), path)
        if before != path:
            raise UsageError(
                f"{before.name} and {path.name} are both of disk {printable(meta.disk_name)} at checkpoint "
                f"{printable(meta.checkpoint)}",
                "Put backups that do not belong together into different folders.",
            )
    files: list[_File] = []
    for path, meta in metas.items():
        parent = None
        if meta.incremental:
            parent = by_name.get((meta.disk_name, meta.parent_checkpoint or ""))
            if parent is None:
                raise UsageError(
                    f"{path.name} stands on checkpoint {printable(meta.parent_checkpoint or 'none')}, of which there "
                    f"is no file for disk {printable(meta.disk_name)}",
                    "Its chain is not whole; nothing was imported.",
                )
        time = store_point.time_of(meta.date.isoformat() if meta.date else None)
        if time is None:
            raise FormatError(f"{path.name} does not tell its time")
        files.append(
            _File(
                path,
                meta.checkpoint,
                parent,
                None,
                meta.disk_name,
                time,
                meta.checkpoint,
                store_point.notes((time.note, virtnbdbackup.NOTE if meta.incremental else None)),
                _stream_opener(path),
            )
        )
    return _import(repository, vm, files, "imported from virtnbdbackup", workers, progress, done)


def import_qcow2(
    repository: Repository,
    paths: Sequence[Path],
    vm: str | None,
    *,
    disk: str | None = None,
    given: Sequence[datetime] = (),
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    done: Done,
) -> list[Backup]:
    """Import qcow2 images: one that stands on another is an incremental backup on it.

    Disk, checkpoint and time come from names as backup_vm.py gives them; for other names `disk` and a time for each
    in `given` are needed. Raises UsageError and FormatError.
    """
    known: dict[Path, ImageInfo] = {}
    for path in paths:
        info: ImageInfo | None = image_info(path)
        while info is not None and info.path not in known:
            known[info.path] = info
            info = image_info(info.backing) if info.backing is not None else None
    left_out = [path for path in known if path not in paths]
    if left_out:
        raise UsageError(
            f"{left_out[0]} belongs to the chain and is not named", "Name all images, from the oldest on."
        )
    last: dict[str | None, Path] = {}
    files: list[_File] = []
    for number, path in enumerate(paths):
        name = _BACKUP_VM.fullmatch(path.name)
        disk_id = identify.usable_id(name[3]) if name else None
        parent = known[path].backing
        if parent is None and name and name[4] == "incremental":
            # Written without a backing file: it stands on the file before it that is of the same disk.
            parent = last.get(disk_id)
            if parent is None:
                raise UsageError(
                    f"{path.name} is incremental, and nothing that it stands on is named before it"
                )
        last[disk_id] = path
        note = None
        if given:
            time = SourceTime(given[number], given[number], None)
        elif name and (found := _minute(name[1])):
            time, note = found, _TO_THE_MINUTE
        else:
            raise UsageError(
                f"the name of {path.name} does not tell its time", "Give one --time for each file."
            )
        if disk is None and disk_id is None:
            raise UsageError(f"the name of {path.name} does not tell its disk", "Name it with --disk.")
        checkpoint = name[2] if name else None
        files.append(
            _File(
                path,
                f"{name[1]}.{checkpoint}" if name else str(path),
                parent,
                disk_id,
                disk or disk_id or "",
                time,
                checkpoint,
                store_point.notes((time.note, note)),
                _image_opener(path, whole=parent is None),
            )
        )
    return _import(repository, vm, files, "imported from qcow2 images", workers, progress, done)


def _import(
    repository: Repository,
    vm_name: str | None,
    files: Sequence[_File],
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


def _in_order(files: Sequence[_File]) -> Iterator[list[_File]]:
    """The files of each point, a point after those that it stands on, else in the order of time.

    Files of one key are one point where all that stand on something stand on one point; else one each.
    """
    groups: dict[str, list[_File]] = {}
    for file in files:
        groups.setdefault(file.key, []).append(file)
    key_of = {file.path: file.key for file in files}
    pending: list[list[_File]] = []
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


def _meta(path: Path) -> virtnbdbackup.Meta:
    with open_input(str(path)) as stream:
        try:
            return VirtnbdbackupSource(stream).meta
        except FormatError as error:
            raise FormatError(f"{path.name}: {error.message}") from None


def _stream_opener(path: Path) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[StreamedSource]:
        with open_input(str(path)) as stream:
            yield VirtnbdbackupSource(stream)

    return opened


def _image_opener(path: Path, *, whole: bool) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[Source]:
        with Qcow2LayerSource(path, whole=whole) as source:
            yield source

    return opened


def _minute(text: str) -> SourceTime | None:
    try:
        return store_point.time_of(datetime.strptime(text, "%Y%m%d%H%M").isoformat())
    except ValueError:
        return None
