# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files ls|cp|cat|find|history|check|diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, cast

import typer

from pitr.cli import files_options, point_options
from pitr.cli.cache_options import CacheDir, CacheDirOption, CacheDirSizeOption
from pitr.cli.commands import file_check, file_versions
from pitr.cli.display import files as display
from pitr.cli.display.output import take_standard_output, write
from pitr.cli.display.progress import showing
from pitr.cli.options import (
    AtOption,
    Common,
    DryRunOption,
    NewestGoodOption,
    PointOption,
    with_common,
)
from pitr.endpoints.images.partial_file import PartialFile, file_errors
from pitr.endpoints.points.frame_folder import FrameFolder
from pitr.errors import DamageError, PitrError, UsageError
from pitr.jobs import find
from pitr.jobs.files.compare import changed_ranges, compare_files
from pitr.jobs.files.copy_out import CopiedFiles, copy_files
from pitr.jobs.files.globs import places_of
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.history import WantedFile
from pitr.jobs.files.list import list_files
from pitr.jobs.files.read import read_file
from pitr.jobs.files.to_tar import write_tar
from pitr.jobs.files.volumes import Place, Volumes, open_volumes, same_place
from pitr.jobs.find import Choice
from pitr.jobs.good_points import GoodPoint
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.system.target_path import checked_new_file

app = typer.Typer(
    help="Take files from a past state, without a restore. pitr mounts nothing and does not need root.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls")
@with_common(moves_data=True)
def ls(
    common: Common,
    words: files_options.ListedArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
    recursive: files_options.RecursiveOption = False,
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """List a folder as it was at a point in time. Without a path, list the volumes and their file systems.

    Examples: pitr files ls web1 --at 2020-06-30T22:00; pitr files ls web1 --at 2020-06-30T22:00 /etc;
    pitr files ls web1 --point 1c2d --volume vg0/root /var/log
    """
    vm, paths = files_options.split(words)
    if len(paths) > 1:
        raise UsageError("pitr lists one path at a time", "Name a folder, perhaps with --recursive.")
    asked = files_options.asked(at, point, newest_good=newest_good)
    cache = CacheDir(cache_dir, cache_dir_size)
    with _opened(common, vm, asked, disk, reader, cache) as opened:
        if not paths:
            opened.volumes.describe()
            shown = opened.volumes.all if volume is None else [opened.volumes.volume_named(volume)]
            display.volumes(common.out, opened.backup, shown)
            return
        places = places_of(opened.volumes, paths[0], volume)
        _note(common, places)
        listed = chain.from_iterable(list_files(place, recursive=recursive) for place in places)
        full = recursive or len(places) > 1
        problems = display.listing(common.out, opened.backup, places[0], listed, full=full)
    _exit_after(places, failed=problems)


@app.command("cp")
@with_common(moves_data=True)
def cp(
    common: Common,
    words: files_options.CopiedArgument,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
    version: files_options.VersionOption = None,
    overwrite: files_options.OverwriteOption = False,
    tar: files_options.TarOption = None,
    dry_run: DryRunOption = False,
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """Copy files and folders as they were at a point, like 'cp -r'. Existing files stay, unless you say --overwrite.

    pitr keeps modes (except set-uid), times, links and holes, but not owners, and it creates no devices. It lists the
    files that it cannot copy and copies the others. It then exits with 1, or with 3 if the repository is damaged.

    Examples: pitr files cp web1 --at 2020-06-30T22:00 /etc/nginx restored/;
    pitr files cp web1 --at 2020-06-30T22:00 '/etc/*.conf' /etc/fstab . --dry-run;
    pitr files cp web1 /etc/fstab . --version 2;
    pitr files cp web1 --at now /srv --tar - | ssh web1 tar -x -C /
    """
    target, words = (tar, words) if tar is not None else (words[-1], words[:-1])
    if not words:
        raise UsageError(
            "a path and a destination are required", "Write: pitr files cp VM --at TIME /etc restored/"
        )
    vm, paths = files_options.split(words)
    if not paths:
        raise UsageError(
            f"{words[-1]!r} is not a path: paths begin with /", "Name at least one path and a destination."
        )
    if tar is not None:
        _check_tar(tar, overwrite=overwrite, dry_run=dry_run)
    if version is not None:
        if len(paths) != 1 or at or point or newest_good:
            raise UsageError(
                "--version takes one path, and names its point: --at and --point do not go with it"
            )
        wanted = WantedFile(paths[0], disk, volume, reader or FileReader.OWN)
        point = file_versions.point_of_version(common, vm, wanted, version)
    asked = files_options.asked(at, point, newest_good=newest_good)
    cache = CacheDir(cache_dir, cache_dir_size)
    with _opened(common, vm, asked, disk, reader, cache) as opened:
        # As with 'cp -r', a link is copied as a link.
        places = [place for path in paths for place in places_of(opened.volumes, path, volume, follow=False)]
        _note(common, places)
        with showing(common.out, "copy files") as progress:
            if tar is not None:
                copied = _to_tar(tar, places, progress)
            else:
                copied = copy_files(places, target, overwrite=overwrite, dry_run=dry_run, progress=progress)
        display.copied(common.out, opened.backup, places, target, copied, dry_run=dry_run)
    _exit_after(places, failed=copied.failed, damaged=copied.damaged)


def _check_tar(tar: str, *, overwrite: bool, dry_run: bool) -> None:
    if overwrite or dry_run:
        raise UsageError("--overwrite and --dry-run do not go with --tar")
    if tar == "-":
        take_standard_output()
    else:
        checked_new_file(tar, "--tar")


def _to_tar(tar: str, places: Sequence[Place], progress: Progress | None) -> CopiedFiles:
    if tar == "-":
        return write_tar(places, cast(IO[bytes], _StandardOutput()), progress)
    partial = PartialFile(Path(tar))
    try:
        with file_errors(partial.path), partial.path.open("wb") as output:
            copied = write_tar(places, output, progress)
        partial.commit()
    except BaseException:
        partial.abort()
        raise
    return copied


class _StandardOutput:
    """Standard output as a file to write to."""

    def write(self, data: bytes) -> int:
        write(data)
        return len(data)


def _exit_after(places: Sequence[Place], *, failed: bool = False, damaged: bool = False) -> None:
    """Exit with a code that is not 0 if files failed, or if a volume lacks the changes in its journal."""
    if damaged or any(place.volume.incomplete for place in places):
        raise typer.Exit(DamageError.exit_code)
    if failed:
        raise typer.Exit(PitrError.exit_code)


@app.command("cat")
@with_common(moves_data=True)
def cat(
    common: Common,
    words: files_options.PrintedArgument,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """Print a file as it was at a point in time.

    The file goes to standard output; with --output json the document goes to standard error.

    Examples: pitr files cat web1 --at 2020-06-30T22:00 /etc/fstab | diff - /etc/fstab
    """
    vm, paths = files_options.split(words)
    if len(paths) != 1:
        raise UsageError("one path is required", "Write: pitr files cat VM --at TIME /etc/fstab")
    take_standard_output()
    asked = files_options.asked(at, point, newest_good=newest_good)
    cache = CacheDir(cache_dir, cache_dir_size)
    with _opened(common, vm, asked, disk, reader, cache) as opened:
        places = places_of(opened.volumes, paths[0], volume)
        _note(common, places)
        written = sum(_print(read_file(place)) for place in places)
        if common.out.json:
            common.out.document({"file": {**display.where(opened.backup, places[0]), "bytes": written}})
    _exit_after(places)


def _print(pieces: Iterator[bytes]) -> int:
    """Write bytes to standard output; return their number."""
    written = 0
    for piece in pieces:
        write(piece)
        written += len(piece)
    return written


app.command("history")(file_versions.history)
app.command("find")(file_versions.find_)
app.command("check")(file_check.check)


@app.command("diff")
@with_common(moves_data=True)
def diff(
    common: Common,
    words: files_options.ComparedArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    since: files_options.SinceOption = None,
    disk: files_options.DiskOption = None,
    volume: files_options.VolumeOption = None,
    reader: files_options.ReaderOption = None,
    content: files_options.ContentOption = False,
    exit_code: files_options.ExitCodeOption = False,
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """Show which files differ between two points in time.

    A file was added (A), deleted (D) or modified (M). A line that begins with ! names a file that pitr cannot compare;
    the exit code is then 1.

    Examples: pitr files diff web1 --at 2020-06-30T22:00 --since 2020-06-29T22:00 /etc;
    pitr files diff web1 --at now --since 1c2d --content
    """
    vm, paths = files_options.split(words)
    if since is None:
        raise UsageError(
            "--since is required: it names the point to compare with",
            "Write --since 2020-06-29T22:00, or an id.",
        )
    if len(paths) > 1:
        raise UsageError("pitr compares one path at a time", "Name a folder that holds them.")
    asked = files_options.asked(at, point, newest_good=newest_good)
    cache = CacheDir(cache_dir, cache_dir_size)
    with _opened(common, vm, asked, disk, reader, cache) as opened:
        earlier = point_options.since(opened.repository, since, opened.choice, files_options.named(disk))
        common.out.notify(point_options.in_words(earlier))
        streams = find.some_streams_of(earlier.backup, files_options.named(disk), opened.repository)
        with open_volumes(
            opened.repository, earlier.backup, streams, common.out.notify, reader, folder=opened.folder
        ) as before:
            path = paths[0] if paths else "/"
            old, new = same_place(before, opened.volumes, path, volume)
            places = [place for place in (old, new) if place is not None]
            _note(common, places)
            changed = None
            if content:
                changed = changed_ranges(opened.repository, earlier.backup, opened.backup, opened.streams)
            changes = compare_files(old, new, content=content, changed=changed)
            differ, problems = display.differences(common.out, opened.backup, earlier.backup, path, changes)
    _exit_after(places)
    if problems or (differ and exit_code):
        raise typer.Exit(PitrError.exit_code)


@dataclass(frozen=True, slots=True)
class _OpenFileSystems:
    """The file systems on the chosen disks of a point."""

    repository: Repository
    choice: Choice
    streams: Sequence[Stream]
    volumes: Volumes
    folder: FrameFolder | None

    @property
    def backup(self) -> Backup:
        return self.choice.backup


@contextmanager
def _opened(
    common: Common,
    vm: str | None,
    asked: point_options.Asked,
    disk: str | None,
    reader: FileReader | None,
    cache: CacheDir,
) -> Iterator[_OpenFileSystems]:
    with common.repository() as repository:
        chosen = asked.find_good(
            repository,
            vm,
            GoodPoint(files_options.named(disk), check="files", refuse=False),
            common.out.notify,
        )
        common.out.notify(point_options.in_words(chosen))
        point_options.warn(common.out, chosen, files_options.named(disk))
        streams = find.some_streams_of(chosen.backup, files_options.named(disk), repository)
        with (
            cache.opened(common, repository) as folder,
            open_volumes(
                repository, chosen.backup, streams, common.out.notify, reader, folder=folder
            ) as volumes,
        ):
            yield _OpenFileSystems(repository, chosen, streams, volumes, folder)


def _note(common: Common, places: Sequence[Place]) -> None:
    """Print the note of each volume once, for example that its file system was in use."""
    volumes = {(place.volume.disk.disk_id, place.volume.name): place.volume for place in places}
    for volume in volumes.values():
        if volume.note:
            advice = f". {_advice(volume.kind)}" if volume.incomplete else ""
            common.out.notify(f"the {volume.kind} file system on volume {volume.name}: {volume.note}{advice}")


def _advice(kind: str) -> str:
    if kind == "ntfs":
        return (
            "To get them, restore the disk and start Windows with it (libguestfs does not replay NTFS either)"
        )
    return "To get them, install libguestfs (Debian: libguestfs-tools) and use --reader guestfs, or restore the disk"
