# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository with points that several tests start from: made once, and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr


@contextmanager
def repository_of(lab: Lab, folder: Path, *, size: int = 4 * MiB) -> Iterator[tuple[Pitr, LabVM]]:
    """Make a repository below `folder`, and a VM with one disk. The VM goes at the end."""
    config = folder / "config.toml"
    config.touch()
    pitr = Pitr(
        {
            **lab.environment(),
            "PITR_REPO": str(folder / "backups"),
            "PITR_CONFIG": str(config),
            "COLUMNS": "400",
        }
    )
    pitr("init")
    vm = make_vm(lab, size)
    try:
        yield pitr, vm
    finally:
        vm.stop()
        vm.remove()


def take_copy(repository: Path, pitr: Pitr) -> None:
    """Let a copy of `repository` be the one of `pitr`."""
    shutil.rmtree(pitr.repository)
    shutil.copytree(repository, pitr.repository)
