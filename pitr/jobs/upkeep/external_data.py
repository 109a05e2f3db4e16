# SPDX-License-Identifier: GPL-2.0-or-later
"""Delete stream data that is stored outside the repository, with the configured delete_command."""

from __future__ import annotations

from pitr.endpoints.streams.commands import CommandTemplate
from pitr.jobs.upkeep.prune import DeleteExternal
from pitr.model import Backup, Stream
from pitr.system.process import run


def deleting_with(command: str | None) -> DeleteExternal | None:
    """Return the function that runs `command` for one removed stream; None without a command. Raises UsageError.

    The function raises ProgramFailed and ProgramMissing.
    """
    if command is None:
        return None
    template = CommandTemplate.parse(command)

    def delete(backup: Backup, stream: Stream) -> None:
        run(
            template.filled(
                stream_id=stream.stream_id,
                disk_id=stream.disk_id,
                backup_id=backup.backup_id,
                vm_id=backup.vm.id,
            )
        )

    return delete
