# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import UsageError


@with_common()
def init(
    common: Common,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="Where to make the repository; the same as --repo.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a repository, in an empty or a new folder.

    Example: pitr init /srv/backup/pitr
    """
    from pitr.repository import Repository
    from pitr.repository.repository import FORMAT

    if folder is not None and common.repo is not None and folder != common.repo:
        raise UsageError("two different folders are named", "Name one, with --repo or without.")
    path = folder or common.repository_path()
    with Repository.create(path) as repository:
        if not repository.keeps_modes:
            common.out.notify(
                f"the file system of {path} keeps no modes: whom its mount lets read there reads the backups"
            )
        if common.out.json:
            common.out.document(
                {"repository": {"id": repository.id, "path": str(path.absolute()), "format": FORMAT}}
            )
        else:
            common.out.show(f"Made the repository {path} ({repository.id}).")
