# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore --from`: one stream, without a repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pitr.cli.display import tables
from pitr.cli.display.progress import showing
from pitr.cli.options import Common
from pitr.endpoints.streams.input import open_input
from pitr.errors import UsageError
from pitr.jobs.restore.choice import TargetChoice, ToFiles, ToNewDisks
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.jobs.restore.from_one_stream import StreamRestored


def restore_stream(
    common: Common, name: str, choice: TargetChoice, disks: Sequence[str], workers: int
) -> None:
    """Restore the stream from the file `name`, or from standard input if it is "-", to a new disk or an image file."""
    # The engine's SDK doubles the memory and the start-up time; a restore from the repository to files does without it.
    from pitr.jobs.restore import from_one_stream as job  # noqa: PLC0415

    if not isinstance(choice, ToFiles | ToNewDisks) or (
        isinstance(choice, ToNewDisks)
        and (choice.attach_to or choice.placement.disk_map or choice.placement.aliases)
    ):
        raise UsageError("--from restores one disk: to a new disk, or to an image file with --to-file")
    if len(disks) > 1:
        raise UsageError("--from restores one disk", "Name it once with --disk.")
    if name == "-" and sys.stdin.isatty():
        raise UsageError("cannot read a stream from a terminal", "Pipe it in, or name a file.")
    with open_input(name, sys.stdin.buffer) as stream, showing(common.out, "restore") as progress:
        if isinstance(choice, ToFiles):
            done = job.stream_to_file(stream, choice, workers=workers, progress=progress)
        else:
            with common.engine() as engine:
                done = job.stream_to_disk(
                    stream,
                    engine,
                    name=disks[0] if disks else None,
                    storage_domain=choice.placement.storage_domain,
                    workers=workers,
                    progress=progress,
                )
    _show(common, done)


def _show(common: Common, done: StreamRestored) -> None:
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
