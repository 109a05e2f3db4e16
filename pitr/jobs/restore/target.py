# SPDX-License-Identifier: GPL-2.0-or-later
"""The target of a restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from pitr.copier.protocols import Sink, Source
from pitr.errors import UsageError
from pitr.jobs.restore.choice import TargetChoice, ToFiles
from pitr.jobs.restore.selection import DiskSelection
from pitr.jobs.restore.to_files import FilesTarget
from pitr.jobs.restore.to_nbd import NbdTarget
from pitr.jobs.restore.verifier import Verifier
from pitr.model import Stream
from pitr.reporting import Notify

if TYPE_CHECKING:
    from pitr.jobs.restore.outcome import TargetOutcome
    from pitr.ovirt.engine import Engine


class Target(Protocol):
    """The target of all disks of a restore. `vm_id` is the VM that gets the disks, once it exists."""

    vm_id: str | None

    def reads_zero(self, stream: Stream) -> bool:
        """Return whether the new disk or file of this stream reads as zero before it is written."""

    def present(self, stream: Stream) -> AbstractContextManager[Source | None]:
        """Open what the target holds already, so that only what differs is written; None to write everything."""

    def expected_name(self, stream: Stream) -> str | None:
        """Return the file or disk that this stream will be restored to; None if it is not known yet."""

    def prepare(self) -> None:
        """Create what must exist before data flows. A plan does not call it."""

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        """Create the disk or file of one stream; yield its name and its sink. An error removes it again."""

    def finish(self) -> None:
        """Complete the restore after all disks are written."""

    def undo(self) -> None:
        """Remove everything that this target created, after the failure of a disk."""


class ReportingTarget(Target, Protocol):
    """A target that tells where the disks go."""

    def outcome(self) -> TargetOutcome:
        """Return where the disks go and the VM that gets them: the plan, or after `finish` the result."""


Connect = Callable[[], AbstractContextManager["Engine"]]
"""Connects to the engine while its context is open."""


@contextmanager
def open_target(
    choice: TargetChoice,
    selection: DiskSelection,
    connect: Connect,
    verifier: Verifier | None,
    notify: Notify,
) -> Iterator[ReportingTarget]:
    """Open the chosen target; call `connect` only if it is on the engine, which then stays connected.

    Raises UsageError if the target cannot be used, EngineError, NoSuchVM.
    """
    if isinstance(choice, ToFiles) and choice.is_nbd:
        if len(selection.streams) != 1:
            raise UsageError(
                f"an NBD export takes one disk, but there are {len(selection.streams)}",
                "Choose one with --disk.",
            )
        yield NbdTarget(choice.path, selection.streams[0], verifier=verifier, notify=notify)
        return
    if isinstance(choice, ToFiles):
        yield FilesTarget(choice, selection.streams, verifier=verifier, notify=notify)
        return
    # The engine's SDK doubles the memory and the start-up time; a restore to files does without it.
    from pitr.jobs.restore.engine_targets import open_engine_target  # noqa: PLC0415

    with connect() as engine:
        yield open_engine_target(engine, choice, selection, verifier, notify)
