# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets on the engine."""

from __future__ import annotations

from pitr.jobs.restore.choice import EngineTargetChoice, ToNewDisks, ToNewVM
from pitr.jobs.restore.replace_disks import ReplacedDisksTarget
from pitr.jobs.restore.selection import DiskSelection
from pitr.jobs.restore.to_new_disks import NewDisksTarget
from pitr.jobs.restore.to_new_vm import NewVMTarget
from pitr.jobs.restore.uploading import Uploading
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.ovirt.engine import Engine
from pitr.reporting import Notify

EngineTarget = NewDisksTarget | NewVMTarget | ReplacedDisksTarget


def open_engine_target(
    engine: Engine,
    choice: EngineTargetChoice,
    selection: DiskSelection,
    verifier: Verifier | None,
    notify: Notify,
) -> EngineTarget:
    """Return the chosen target on the engine. Raises UsageError if it cannot be used, EngineError, NoSuchVM."""
    uploading = Uploading(engine, UploadNotes(selection.repository), notify, verifier)
    backup, streams = selection.backup, selection.streams
    if isinstance(choice, ToNewDisks):
        return NewDisksTarget(uploading, backup, streams, choice.placement, attach_to=choice.attach_to)
    if isinstance(choice, ToNewVM):
        record = selection.repository.record_of(backup.backup_id)
        return NewVMTarget(uploading, record, streams, choice)
    return ReplacedDisksTarget(uploading, backup, streams, choice.placement)
