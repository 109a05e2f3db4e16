# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.repository import Repository
from pitr.repository.repository import FORMAT
from pitr.system.target_path import repository_folder

FolderArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of the new repository; the same as --repo.",
        show_default=False,
        parser=repository_folder,
    ),
]


@with_common()
def init(common: Common, folder: FolderArgument = None) -> None:
    """Create a repository in a new or empty folder.

    Example: pitr init /srv/backup/pitr
    """
    if folder is not None and common.repo is not None and folder != common.repo:
        raise UsageError("FOLDER and --repo name different folders", "Give only one of them.")
    path = folder or common.repository_path()
    with Repository.create(path) as repository:
        if not repository.keeps_modes:
            common.out.notify(
                f"warning: the file system of {path} does not store file modes: its mount options decide who can "
                "read the backups"
            )
        if common.out.json:
            common.out.document(
                {"repository": {"id": repository.id, "path": str(path.absolute()), "format": FORMAT}}
            )
        else:
            common.out.show(f"Created the repository {path} ({repository.id}).")
