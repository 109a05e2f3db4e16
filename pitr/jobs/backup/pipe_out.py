# SPDX-License-Identifier: GPL-2.0-or-later
"""Store the blobs of a backup externally: in a pipe, a file, or with a command."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.endpoints.streams.commands import CommandTemplate
from pitr.endpoints.streams.output import CommandOutput, StreamOutput
from pitr.errors import UsageError
from pitr.repository.stream_sink import Compression, NewStream
from pitr.system.signals import WakeOnSignal
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class PipingOut:
    """Where blobs go: `output` takes one stream, or pitr runs `command` for each stream."""

    wake: WakeOnSignal
    output: StreamOutput | None = None
    command: CommandTemplate | None = None
    compression: Compression = "zstd"

    def check(self, vm_name: str, disks: int) -> None:
        """Raise UsageError if there are more disks than places for their streams."""
        if self.command is None and disks != 1:
            raise UsageError(
                f"--to takes one disk, and VM {printable(vm_name)} has {disks} to back up",
                "Name one disk with --disk, or use --put-command, which runs once for each disk.",
            )

    def open(self, new: NewStream, vm_id: str) -> StreamOutput:
        """Return the output for the blob of this stream. The caller finishes or aborts it."""
        if self.output is not None:
            return self.output
        if self.command is None:
            raise RuntimeError("neither an output nor a command")
        words = self.command.filled(
            stream_id=new.stream_id, disk_id=new.disk_id, backup_id=new.backup_id, vm_id=vm_id
        )
        return CommandOutput(words, self.compression, wake=self.wake)
