# SPDX-License-Identifier: GPL-2.0-or-later
"""Which restore runs: from the blobs of the repository, or from blobs that a command returns."""

from __future__ import annotations

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.streams.commands import CommandTemplate
from pitr.jobs.restore import from_commands, from_repository
from pitr.jobs.restore.restored import Restored
from pitr.jobs.restore.selection import DiskSelection
from pitr.jobs.restore.target import Target
from pitr.reporting import Notify, Progress


def choose_get_command(
    selection: DiskSelection, given: str | None, configured: str | None
) -> CommandTemplate | None:
    """Return the command that returns external blobs: the given one, else the configured one if it is needed.

    Raises UsageError for a command that cannot be split, StoredDamage.
    """
    text = given
    if text is None and configured is not None and from_commands.needs_external(selection):
        text = configured
    return CommandTemplate.parse(text) if text is not None else None


def plan(selection: DiskSelection, target: Target) -> list[Restored]:
    """Return the expected result; write nothing and read no blob. Raises StoredDamage."""
    selection.repository.check_opens()
    # The indexes are in the repository, even if the blobs are external.
    if from_commands.needs_external(selection):
        return from_commands.plan(selection, target)
    return from_repository.plan(selection, target)


def run(
    selection: DiskSelection,
    target: Target,
    get_command: CommandTemplate | None,
    *,
    verified: bool,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
) -> list[Restored]:
    """Restore the disks to `target`, with external blobs from `get_command`. Raises StoredDamage, ProgramFailed.

    `verified`: the target compares each disk with the point.
    """
    selection.repository.check_opens()
    if get_command is None:
        return from_repository.restore(selection, target, workers=workers, progress=progress, notify=notify)
    return from_commands.restore(
        selection, target, get_command, verified=verified, workers=workers, progress=progress
    )
