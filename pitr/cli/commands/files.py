# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files ls|cp|cat|diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli import point_options
from pitr.cli.options import AtOption, Common, PointOption, with_common
from pitr.errors import DamageError, PitrError, UsageError

if TYPE_CHECKING:
    from pitr.jobs.files.copy_out import CopiedFiles
    from pitr.jobs.files.volumes import Place, Volumes
    from pitr.jobs.find import Choice
    from pitr.model import Backup, Stream
    from pitr.repository import Repository

app = typer.Typer(
    help="Take files from a past state, without a restore. Nothing is mounted, nobody needs to be root.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DiskOption = Annotated[
    str | None, typer.Option("--disk", metavar="DISK", help="Name or id of a disk; left out: all disks.")
]
VolumeOption = Annotated[
    str | None,
    typer.Option(
        "--volume",
        metavar="VOLUME",
        help="Number of a partition, GROUP/NAME of a logical volume; left out: the only one that has the path.",
    ),
]


@app.command("ls")
@with_common()
def ls(
    common: Common,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VM] [PATH]",
            help="Name or id of a VM; left out: the only one in the repository. A path begins with /; left out: the "
            "volumes are listed.",
        ),
    ] = None,
    at: AtOption = None,
    point: PointOption = None,
    disk: DiskOption = None,
    volume: VolumeOption = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="All that is below the folder, too.")
    ] = False,
) -> None:
    """List what a folder held at a point in time. Without a path, the volumes with their file systems.

    Examples: pitr files ls web1 --at 2020-06-30T22:00; pitr files ls web1 --at 2020-06-30T22:00 /etc;
    pitr files ls web1 --point 1c2d --volume vg0/root /var/log
    """
    vm, paths = _split(words)
    if len(paths) > 1:
        raise UsageError("one path at a time can be listed", "Name a folder, perhaps with --recursive.")
    with _opened(common, vm, at, point, disk) as opened:
        from pitr.cli.display import files as files_output
        from pitr.jobs.files.list import list_files

        if not paths:
            opened.volumes.describe()
            found = [
                one
                for one in opened.volumes.all
                if volume is None or one is opened.volumes.volume_named(volume)
            ]
            files_output.volumes(common.out, opened.backup, found)
            return
        place = opened.volumes.locate(paths[0], volume)
        _note(common, [place])
        listed = list_files(place, recursive=recursive)
        problems = files_output.listing(common.out, opened.backup, place, listed, full=recursive)
    if problems:
        raise typer.Exit(PitrError.exit_code)


@app.command("cp")
@with_common()
def cp(
    common: Common,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[VM] PATH... DEST",
            help="Paths at that point, which begin with /, and where to copy them: a new name, or a folder.",
        ),
    ],
    at: AtOption = None,
    point: PointOption = None,
    disk: DiskOption = None,
    volume: VolumeOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Put files in the place of files that exist.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be copied; write nothing.")
    ] = False,
) -> None:
    """Copy files and folders as they were, like 'cp -r'. Nothing that exists is written over.

    Modes (without set-uid), times, links and holes are kept; owners are not, and devices are not made. What cannot be
    copied is listed, the rest is copied, and the exit code is 1, or 3 when the repository is damaged.

    Examples: pitr files cp web1 --at 2020-06-30T22:00 /etc/nginx restored/;
    pitr files cp web1 --at 2020-06-30T22:00 /etc/hosts /etc/fstab . --dry-run
    """
    from pitr.cli.display.progress import showing

    if len(words) < 2:
        raise UsageError(
            "a path and where to copy it to are needed", "Write: pitr files cp VM --at TIME /etc restored/"
        )
    vm, paths = _split(words[:-1])
    if not paths:
        raise UsageError(
            f"{words[-2]!r} is no path: paths begin with /", "Name at least one, and where to copy it to."
        )
    with _opened(common, vm, at, point, disk) as opened:
        from pitr.cli.display import files as files_output
        from pitr.jobs.files.copy_out import copy_files

        # A link is copied as one, as by 'cp -r'.
        places = [opened.volumes.locate(path, volume, follow=False) for path in paths]
        _note(common, places)
        with showing(common.out, "copy files") as progress:
            copied = copy_files(places, words[-1], overwrite=overwrite, dry_run=dry_run, progress=progress)
        files_output.copied(common.out, opened.backup, places, words[-1], copied, dry_run=dry_run)
    _end(copied)


def _end(copied: CopiedFiles) -> None:
    if copied.damaged:
        raise typer.Exit(DamageError.exit_code)
    if copied.failed:
        raise typer.Exit(PitrError.exit_code)


@app.command("cat")
@with_common()
def cat(
    common: Common,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[VM] PATH", help="A file at that point; its path begins with /."),
    ],
    at: AtOption = None,
    point: PointOption = None,
    disk: DiskOption = None,
    volume: VolumeOption = None,
) -> None:
    """Print a file as it was at a point in time.

    It goes to standard output; with --output json the document goes to standard error.

    Examples: pitr files cat web1 --at 2020-06-30T22:00 /etc/fstab | diff - /etc/fstab
    """
    from pitr.cli.display.output import take_standard_output

    vm, paths = _split(words)
    if len(paths) != 1:
        raise UsageError("one path is needed", "Write: pitr files cat VM --at TIME /etc/fstab")
    take_standard_output()
    with _opened(common, vm, at, point, disk) as opened:
        from pitr.cli.display import files as files_output
        from pitr.jobs.files.read import read_file

        place = opened.volumes.locate(paths[0], volume)
        _note(common, [place])
        written = _print(read_file(place))
        if common.out.json:
            common.out.document({"file": {**files_output.where(opened.backup, place), "bytes": written}})


def _print(pieces: Iterator[bytes]) -> int:
    """Write bytes to standard output; return how many."""
    from pitr.cli.display.output import write

    written = 0
    for piece in pieces:
        write(piece)
        written += len(piece)
    return written


@app.command("diff")
@with_common()
def diff(
    common: Common,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VM] [PATH]", help="A VM, and a path that begins with /; left out: all files."
        ),
    ] = None,
    at: AtOption = None,
    point: PointOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME|ID", help="The point to compare with, by its time or id. Needed."
        ),
    ] = None,
    disk: DiskOption = None,
    volume: VolumeOption = None,
    content: Annotated[
        bool,
        typer.Option(
            "--content", help="Compare the bytes of files too, not only size, time, mode and owner."
        ),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit code 1 when there are differences, as in git.")
    ] = False,
) -> None:
    """Say which files are different between two points in time.

    They were added (A), removed (D) or changed (M). Lines that begin with ! name what could not be compared; the exit
    code is 1 then.

    Examples: pitr files diff web1 --at 2020-06-30T22:00 --since 2020-06-29T22:00 /etc;
    pitr files diff web1 --at now --since 1c2d --content
    """
    vm, paths = _split(words)
    if since is None:
        raise UsageError(
            "--since is needed: the point to compare with", "Write --since 2020-06-29T22:00, or an id."
        )
    if len(paths) > 1:
        raise UsageError("one path at a time can be compared", "Name a folder that holds them.")
    path = paths[0] if paths else "/"
    with _opened(common, vm, at, point, disk) as opened:
        from pitr.cli.display import files as files_output
        from pitr.jobs import find
        from pitr.jobs.files.compare import changed_ranges, compare_files
        from pitr.jobs.files.volumes import open_volumes, same_place

        earlier = point_options.since(opened.repository, since, opened.choice)
        common.out.notify(point_options.in_words(earlier))
        streams = find.some_streams_of(earlier.backup, [disk] if disk is not None else [])
        with open_volumes(opened.repository, earlier.backup, streams) as before:
            old, new = same_place(before, opened.volumes, path, volume)
            _note(common, [place for place in (old, new) if place is not None])
            changed = (
                changed_ranges(opened.repository, earlier.backup, opened.backup, opened.streams)
                if content
                else None
            )
            changes = compare_files(old, new, content=content, changed=changed)
            found, problems = files_output.differences(
                common.out, opened.backup, earlier.backup, path, changes
            )
    if problems or (found and exit_code):
        raise typer.Exit(PitrError.exit_code)


@dataclass(frozen=True, slots=True)
class _OpenFileSystems:
    repository: Repository
    choice: Choice
    streams: Sequence[Stream]
    volumes: Volumes

    @property
    def backup(self) -> Backup:
        return self.choice.backup


@contextmanager
def _opened(
    common: Common, vm: str | None, at: str | None, point: str | None, disk: str | None
) -> Iterator[_OpenFileSystems]:
    from pitr.jobs import find
    from pitr.jobs.files.volumes import open_volumes

    asked = point_options.exactly_one("looking into files", at, point)
    with common.repository() as repository:
        chosen = asked.find(repository, vm)
        common.out.notify(point_options.in_words(chosen))
        streams = find.some_streams_of(chosen.backup, [disk] if disk is not None else [])
        with open_volumes(repository, chosen.backup, streams) as volumes:
            yield _OpenFileSystems(repository, chosen, streams, volumes)


def _split(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """A VM's name, if the first word is one, and paths: they begin with a slash, which no VM's name does."""
    given = list(words or ())
    vm = given.pop(0) if given and not given[0].startswith("/") else None
    for path in given:
        if not path.startswith("/"):
            raise UsageError(f"{path!r} is no path at that point: paths begin with /")
    return vm, given


def _note(common: Common, places: Sequence[Place]) -> None:
    """Say once for each volume that its file system was in use."""
    for volume in {id(place.volume): place.volume for place in places}.values():
        if volume.note:
            common.out.notify(f"the {volume.kind} file system on volume {volume.name}: {volume.note}")
