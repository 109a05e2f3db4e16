# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that can keep decompressed data on a fast local disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class CacheDir:
    """The values of --cache-dir and --cache-dir-size. Raises UsageError."""

    place: Path | None
    size: str | None

    def __post_init__(self) -> None:
        if self.size is not None and self.place is None:
            raise UsageError("--cache-dir-size goes with --cache-dir", "Name the folder, too.")
        if self._capacity < LEAST_SIZE:
            raise UsageError(
                f"--cache-dir-size must be at least {human_size(LEAST_SIZE)}, not {self.size}",
                "Give a size that holds a good part of the disks, for example 50g.",
            )

    @property
    def _capacity(self) -> int:
        return DEFAULT_SIZE if self.size is None else parse_size(self.size)

    @contextmanager
    def opened(self, common: Common, repository: Repository) -> Iterator[FrameFolder | None]:
        """Open the folder; None without --cache-dir. Raises UsageError."""
        if self.place is None:
            yield None
            return
        with FrameFolder(self.place, self._capacity) as folder:
            if repository.keyring is not None:
                common.out.notify(
                    f"warning: the repository is sealed, but {self.place} will hold data that is not: "
                    "delete the folder when you no longer need it"
                )
            yield folder
