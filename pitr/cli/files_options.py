# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments and options of `pitr files`, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pitr.cli import point_options
from pitr.cli.options import choices
from pitr.errors import UsageError
from pitr.jobs.files.guestfs_reader import FileReader

ListedArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[VM] [PATH]",
        help="Name or id of the VM. Default: the only VM in the repository. A path begins with /. Default: list the "
        "volumes.",
    ),
]
CopiedArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[VM] PATH... DEST",
        help="Paths at the point, which begin with /, and the destination: a new name, or a folder. With --tar there "
        "is no destination. In paths, *, ? and [...] are wildcards.",
    ),
]
PrintedArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[VM] PATH", help="A file at the point; its path begins with /. *, ? and [...] are wildcards."
    ),
]
ComparedArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[VM] [PATH]", help="A VM, and a path that begins with /. Default: all files."),
]
DiskOption = Annotated[
    str | None, typer.Option("--disk", metavar="DISK", help="Name or id of a disk. Default: all disks.")
]
VolumeOption = Annotated[
    str | None,
    typer.Option(
        "--volume",
        metavar="VOLUME",
        help="Number of a partition, or GROUP/NAME of a logical volume. Default: the only one that has the path.",
    ),
]
ReaderOption = Annotated[
    FileReader | None,
    typer.Option(
        "--reader",
        metavar=choices(FileReader),
        help="Reader of the file systems: own is built in, guestfs is libguestfs, which reads more kinds and replays "
        "journals. Default: own; guestfs if it is installed and own cannot read everything.",
    ),
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-R", help="List everything below the folder, too.")
]
TarOption = Annotated[
    str | None,
    typer.Option(
        "--tar",
        metavar="FILE|-",
        help="Write a tar archive, with owners and all mode bits, instead of files; - is standard output.",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing files.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME|ID", help="Compare with this point (a time or an id); required."),
]
VersionOption = Annotated[
    int | None,
    typer.Option(
        "--version", metavar="N", help="Copy this version of the file: its number in 'pitr files history'."
    ),
]
FoundArgument = Annotated[
    list[str],
    typer.Argument(metavar="[VM] PATTERN", help="A VM, and a pattern of names or, with a slash, of paths."),
]
AllPointsOption = Annotated[bool, typer.Option("--all", help="Search all points of the VM.")]
ContentNewerOption = Annotated[
    str | None,
    typer.Option(
        "--content-newer",
        metavar="TIME",
        help="Only files whose content was changed after this time, by the guest's clock.",
    ),
]
DigestOption = Annotated[
    bool,
    typer.Option("--digest", help="Read the file at each point, and compare and show its digest (BLAKE3)."),
]
CheckedArgument = Annotated[
    str | None,
    typer.Argument(metavar="[VM]", help="Name or id of the VM. Default: the only VM in the repository."),
]
SampleOption = Annotated[
    int,
    typer.Option(
        "--sample",
        metavar="N",
        min=20,
        max=1_000_000,
        help="Read the first bytes of at most this many files. The same files are read each time.",
    ),
]
CompareWithOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME|ID",
        help="Compare with this point. Default: the earlier points that were checked, else the oldest one.",
    ),
]
UnusualExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 1 if the files are unusual.")
]
ContentOption = Annotated[
    bool,
    typer.Option("--content", help="Compare the bytes of files, too, not only size, time, mode and owner."),
]
ExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 1 if there are differences, as git does.")
]


def asked(at: str | None, point: str | None, *, newest_good: bool) -> point_options.Asked:
    return point_options.exactly_one("access to files", at, point, newest_good=newest_good)


def named(disk: str | None) -> list[str]:
    return [disk] if disk is not None else []


def split(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Split the arguments into a VM and paths. Paths begin with a slash; no name of a VM does. Raises UsageError."""
    paths = list(words or ())
    vm = paths.pop(0) if paths and not paths[0].startswith("/") else None
    for path in paths:
        if not path.startswith("/"):
            raise UsageError(f"{path!r} is not a path at the point: paths begin with /")
    return vm, paths
