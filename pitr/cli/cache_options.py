# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that can keep decompressed data on a fast local disk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.options import Common
from pitr.endpoints.points.frame_folder import DEFAULT_SIZE, LEAST_SIZE, FrameFolder
from pitr.errors import UsageError
from pitr.repository import Repository
from pitr.system.target_path import given_path
from pitr.units import human_size, parse_size

CacheDirOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="FOLDER",
        help="Keep decompressed data in this folder on a fast local disk, also for later commands. Anyone who can read "
        "the folder can read the disks.",
        parser=given_path("--cache-dir"),
    ),
]
CacheDirSizeOption = Annotated[
    str | None,
    typer.Option(
        "--cache-dir-size",
        metavar="SIZE",
        help="Most bytes in the folder of --cache-dir: the data that was not used for the longest time makes room. "
        "Default: 16g.",
    ),
]


def frame_folder(
    common: Common, stack: ExitStack, repository: Repository, place: Path | None, size: str | None
) -> FrameFolder | None:
    """Open the folder of --cache-dir until `stack` closes; None without it. Raises UsageError."""
    if place is None:
        if size is not None:
            raise UsageError("--cache-dir-size goes with --cache-dir", "Name the folder, too.")
        return None
    capacity = parse_size(size) if size is not None else DEFAULT_SIZE
    if capacity < LEAST_SIZE:
        raise UsageError(
            f"--cache-dir-size must be at least {human_size(LEAST_SIZE)}, not {size}",
            "Give a size that holds a good part of the disks, for example 50g.",
        )
    folder = stack.enter_context(FrameFolder(place, capacity))
    if repository.keyring is not None:
        common.out.notify(
            f"warning: the repository is sealed, but {place} will hold data that is not: "
            "delete the folder when you no longer need it"
        )
    return folder
