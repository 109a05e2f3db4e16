# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore --from`: one stream, without a repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pitr.cli.options import Common
from pitr.errors import UsageError

if TYPE_CHECKING:
    from pitr.cli.commands.restore_to import Wanted
    from pitr.endpoints.streams.commands import CommandTemplate
    from pitr.jobs.restore.from_one_stream import StreamRestored
    from pitr.model import Backup, Stream
    from pitr.repository import Repository


def restore_stream(common: Common, given: str, wanted: Wanted, disks: Sequence[str], workers: int) -> None:
    """Restore the stream `given` (a file, or - for standard input) to a new disk or an image file."""
    from pitr.cli.display.progress import showing
    from pitr.endpoints.streams.input import open_input
    from pitr.jobs.restore import from_one_stream as job

    if wanted.as_new_vm or wanted.replace or wanted.attach_to or wanted.disk_map or wanted.verify:
        raise UsageError("--from restores one disk: to a new disk, or with --to-file to an image file")
    if wanted.keep_going:
        raise UsageError("--keep-going goes with points of the repository, not with --from")
    if len(disks) > 1:
        raise UsageError("--from restores one disk", "Name it once with --disk.")
    if given == "-" and sys.stdin.isatty():
        raise UsageError("a stream does not come from a terminal", "Pipe it in, or name a file.")
    with open_input(given, sys.stdin.buffer) as stream, showing(common.out, "restore") as progress:
        if wanted.to_file is not None:
            done = job.stream_to_file(
                stream,
                Path(wanted.to_file),
                cast(Literal["raw", "qcow2"], wanted.image_format or "raw"),
                workers=workers,
                progress=progress,
            )
        else:
            with common.engine() as engine:
                done = job.stream_to_disk(
                    stream,
                    engine,
                    name=disks[0] if disks else None,
                    storage_domain=wanted.storage_domain,
                    workers=workers,
                    progress=progress,
                )
    _show(common, done)


def template_for(
    common: Common,
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    get_command: str | None,
) -> CommandTemplate | None:
    """The command that gives back what lies elsewhere: the one that is typed, else for points that need one the
    configuration's. Raises UsageError and StoredDamage."""
    from pitr.endpoints.streams.commands import CommandTemplate
    from pitr.jobs.restore.from_commands import is_elsewhere

    if get_command is None:
        configured = common.settings.get_command
        if configured is None or not is_elsewhere(repository, backup, streams):
            return None
        get_command = configured
    return CommandTemplate.parse(get_command)


def _show(common: Common, done: StreamRestored) -> None:
    from pitr.cli.display import tables
    from pitr.units import human_size

    if common.out.json:
        common.out.document({"restored": {**asdict(done), "duration_s": round(done.duration_s, 3)}})
        return
    common.out.show(
        tables.table(
            ("Disk", "New disk or file", "Size", "Written", "Zeroed", "Skipped"),
            [
                (
                    done.name,
                    done.target,
                    human_size(done.size),
                    human_size(done.bytes_written),
                    human_size(done.bytes_zeroed),
                    human_size(done.bytes_skipped),
                )
            ],
            right=("Size", "Written", "Zeroed", "Skipped"),
            drop=("Skipped", "Zeroed", "Size"),
            least={"Disk": ("cut", 12), "New disk or file": ("fold", 36)},
        )
    )
