# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the backup that an incremental backup is based on."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.errors import CheckpointGone
from pitr.jobs.backup.chain_present import check_present
from pitr.jobs.backup.options import BackupOptions
from pitr.model import Backup
from pitr.ovirt.engine import VM, Engine, list_checkpoints
from pitr.repository import Repository, notes
from pitr.repository.damage import StoredDamage
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class Base:
    """The backup that an incremental is based on; without a parent, `reason` says why the backup is a full."""

    parent: Backup | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Bases:
    """The possible bases of a backup of one VM."""

    repository: Repository
    engine: Engine
    vm: VM
    options: BackupOptions

    def choose(self) -> Base:
        """Return the base of an incremental, or the reason for a full."""
        if self.options.full:
            return Base(None, "requested")
        if any(notes.distrusted(self.repository.store, self.vm.id)):
            return self.no_base("the last incremental found changes that the engine had missed")
        return self._newest_base()

    def _newest_base(self) -> Base:
        """Find the newest backup whose checkpoint the engine still has and whose chain is complete."""
        points = self.repository.catalog.points(self.vm.id)
        ours = {backup.checkpoint_id: backup for backup in points if backup.checkpoint_id is not None}
        if not ours:
            return self.no_base(
                "no backup of this VM has a checkpoint (the engine makes none for raw disks)"
                if points
                else "the repository holds no backup of this VM yet"
            )
        on_engine = list_checkpoints(self.engine, self.vm.id)
        # The engine lists its checkpoints from the root to the leaf. Follow this order, not the clock.
        for checkpoint in reversed(on_engine):
            backup = ours.get(checkpoint.id)
            if not checkpoint.valid:
                # The changes since a checkpoint need all later checkpoints.
                return self.no_base(f"the checkpoint {checkpoint.id} is invalid on the engine")
            if backup is None:
                continue
            try:
                check_present(self.repository, backup)
            except StoredDamage as error:
                return self.no_base(f"the chain of the last backup is damaged ({error.message})")
            return Base(backup, None)
        return self.no_base(f"the engine no longer has the checkpoint {next(iter(ours))} of the last backup")

    def no_base(self, reason: str) -> Base:
        """Return no base, for a full with this reason. Raises CheckpointGone if the options forbid a full."""
        if self.options.incremental and not self.options.fallback:
            raise CheckpointGone(
                f"no incremental backup of VM {printable(self.vm.name)} is possible: {reason}",
                "Remove --no-fallback to take a full backup.",
            )
        return Base(None, reason)

    def disks_with_chain(self) -> frozenset[str]:
        """Return the ids of the disks that earlier backups hold incrementally; a full of one of them is unexpected."""
        return frozenset(
            stream.disk_id
            for backup in self.repository.catalog.points(self.vm.id)
            for stream in backup.streams
            if stream.settings.format == "cow"
        )
