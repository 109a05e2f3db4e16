# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files history|find`: files over many points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import typer

from pitr import times
from pitr.cli import files_options, point_options
from pitr.cli.display import files as display
from pitr.cli.display.progress import showing
from pitr.cli.options import AtOption, Common, NewestGoodOption, PointOption, with_common
from pitr.errors import DamageError, PitrError, UsageError
from pitr.jobs import asked_time, find
from pitr.jobs.files.globs import has_wildcards
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.history import FileHistory, WantedFile, backup_with_version, file_history, matching_paths
from pitr.jobs.files.search import WantedFiles, find_files
from pitr.jobs.files.walk import UnreadPoint
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.point_order import newest_first
from pitr.model import Backup
from pitr.repository import Repository
from pitr.text import counted, printable

#: An error names so many paths.
_MOST_NAMED = 5


@with_common(moves_data=True)
def history(
    common: Common,
    words: files_options.PrintedArgument,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
    digest: files_options.DigestOption = False,
) -> None:
    """List every version of a file: its state at each point of the VM. Points with the same state share a line.

    Two points have the same version if size, time, mode and owner are equal; with --digest, also the bytes. Version 1
    is the oldest. 'pitr files cp --version N' copies a version.

    Examples: pitr files history web1 /etc/fstab; pitr files history web1 /etc/fstab --digest --output json;
    pitr files cp web1 /etc/fstab . --version 2
    """
    vm, paths = files_options.split(words)
    if len(paths) != 1:
        raise UsageError("one path is required", "Write: pitr files history VM /etc/fstab")
    with common.repository() as repository:
        found = _history(
            common, repository, vm, WantedFile(paths[0], disk, volume, reader or FileReader.OWN), digest
        )
        display.history(common.out, found)
    _exit_after_unread(found.unread)


def _history(
    common: Common, repository: Repository, vm: str | None, wanted: WantedFile, digests: bool
) -> FileHistory:
    points = _all_points(repository, vm)
    if has_wildcards(wanted.path):
        wanted = replace(wanted, path=_only_match(common, repository, points, wanted))
    with showing(common.out, "look at points") as progress:
        return file_history(
            repository, points, wanted, digests=digests, notify=common.out.notify, progress=progress
        )


def _only_match(common: Common, repository: Repository, points: Sequence[Backup], wanted: WantedFile) -> str:
    """Return the only path that matches the wildcards at any point."""
    with showing(common.out, "match paths") as progress:
        paths = matching_paths(repository, points, wanted, notify=common.out.notify, progress=progress)
    if len(paths) > 1:
        some = ", ".join(
            [printable(path) for path in paths[:_MOST_NAMED]] + ["…"] * (len(paths) > _MOST_NAMED)
        )
        raise UsageError(
            f"{counted(len(paths), 'file')} match {printable(wanted.path)}: {some}",
            "Name one of them. 'pitr files find --all' lists the states of several files.",
        )
    return paths[0] if paths else wanted.path


def point_of_version(common: Common, vm: str | None, wanted: WantedFile, number: int) -> str:
    with common.repository() as repository:
        return backup_with_version(_history(common, repository, vm, wanted, False), number).backup_id


@with_common(moves_data=True)
def find_(
    common: Common,
    words: files_options.FoundArgument,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    all_points: files_options.AllPointsOption = False,
    content_newer: files_options.ContentNewerOption = None,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
) -> None:
    """Find files by name, at one point or at all points of a VM. Default: the newest point.

    PATTERN is matched with the names of files, or with whole paths if it holds a slash; * stands for any characters,
    also for a slash. With --all a file has a line for each state, with the first and the last point that have it.

    Examples: pitr files find web1 '*.conf' --at 2020-06-30T22:00; pitr files find web1 '/etc/*' --all;
    pitr files find web1 '*.docx' --at now --content-newer 2020-06-30T08:00
    """
    if not 1 <= len(words) <= 2:
        raise UsageError("a pattern is required", "Write: pitr files find VM '*.conf'")
    vm = words[0] if len(words) == 2 else None
    wanted = WantedFiles(
        words[-1],
        asked_time.parse(content_newer).latest if content_newer is not None else None,
        disk,
        volume,
        reader or FileReader.OWN,
    )
    if all_points and (at or point or newest_good):
        raise UsageError("--all searches all points: --at, --point and --newest-good do not go with it")
    with common.repository() as repository:
        points = (
            _all_points(repository, vm)
            if all_points
            else [_one_point(common, repository, vm, _asked(at, point, newest_good=newest_good), disk)]
        )
        with showing(common.out, "search points") as progress:
            found = find_files(repository, points, wanted, notify=common.out.notify, progress=progress)
        display.found(common.out, wanted.pattern, found)
    _exit_after_unread(found.unread, failed=bool(found.problems))


def _asked(at: str | None, point: str | None, *, newest_good: bool) -> point_options.Asked:
    """Return the point that the options name, or else the newest one."""
    at = "now" if at is None and point is None else at
    return files_options.asked(at, point, newest_good=newest_good)


def _all_points(repository: Repository, vm: str | None) -> list[Backup]:
    """Return all points of a VM, oldest first."""
    catalog = repository.catalog_of_vm(vm)
    named = find.vm_named(catalog, vm) if vm is not None else find.only_vm(catalog)
    return newest_first(catalog.points(named.id), times.now())[::-1]


def _one_point(
    common: Common, repository: Repository, vm: str | None, asked: point_options.Asked, disk: str | None
) -> Backup:
    wanted = GoodPoint(files_options.named(disk), check="files", refuse=False)
    chosen = asked.find_good(repository, vm, wanted, common.out.notify)
    common.out.notify(point_options.in_words(chosen))
    return chosen.backup


def _exit_after_unread(unread: Sequence[UnreadPoint], *, failed: bool = False) -> None:
    if any(point.damaged for point in unread):
        raise typer.Exit(DamageError.exit_code)
    if unread or failed:
        raise typer.Exit(PitrError.exit_code)
