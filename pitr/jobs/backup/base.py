# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the backup that an incremental backup is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pitr.errors import CheckpointGone
from pitr.jobs import known_damage
from pitr.jobs.backup.chain_present import CHECK, damaged_chains, in_words
from pitr.jobs.backup.options import BackupOptions
from pitr.model import Backup
from pitr.ovirt.engine import VM, Disk, Engine, list_checkpoints
from pitr.reporting import Notify
from pitr.repository import Repository, notes
from pitr.repository.damage import StoredDamage
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class Base:
    """The backup that an incremental is based on; without a parent, `reason` says why the backup is a full.

    `damaged` has the disks (by id) whose chain is damaged, and why: pitr reads them in full.
    """

    parent: Backup | None
    reason: str | None
    damaged: Mapping[str, str] = field(default_factory=dict)

    def full_disks(self, disks: Sequence[Disk]) -> str | None:
        """Return in words which of the disks an incremental reads in full, and why; None if there are none."""
        harmed = [
            f"disk {printable(disk.name)} in full: {self.damaged[disk.id]}"
            for disk in disks
            if disk.id in self.damaged
        ]
        return "; ".join(harmed) or None


@dataclass(frozen=True, slots=True)
class Bases:
    """The possible bases of a backup of one VM."""

    repository: Repository
    engine: Engine
    vm: VM
    options: BackupOptions
    #: None for a dry run, which stores no findings.
    notify: Notify | None

    def choose(self, disks: Sequence[Disk]) -> Base:
        """Return the base of an incremental of these disks, or the reason for a full."""
        if self.options.full:
            return Base(None, "requested")
        if any(notes.distrusted(self.repository.store, self.vm.id)):
            return self.no_base("the last incremental found changes that the engine had missed")
        return self._newest_base(disks)

    def _newest_base(self, disks: Sequence[Disk]) -> Base:
        """Find the newest backup whose checkpoint the engine still has, and the disks with a damaged chain."""
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
                return self.no_base(
                    f"a checkpoint since the last backup is invalid on the engine ({checkpoint.id})"
                )
            if backup is None:
                continue
            return self._with_good_chains(backup, disks)
        return self.no_base(
            f"the engine no longer has the checkpoint of the last backup ({next(iter(ours))})"
        )

    def _with_good_chains(self, backup: Backup, disks: Sequence[Disk]) -> Base:
        try:
            damaged = damaged_chains(self.repository, backup, self.notify)
        except StoredDamage as error:
            return self.no_base(f"the chain of the last backup is damaged: {error.message}")
        # A raw disk is full in any case.
        held = [disk for disk in disks if disk.format != "raw" and backup.stream_of(disk.id) is not None]
        harmed = {disk.id: damaged[disk.id] for disk in held if disk.id in damaged}
        if not harmed:
            return Base(backup, None)
        in_words = "; ".join(
            f"disk {printable(disk.name)}: {harmed[disk.id]}" for disk in held if disk.id in harmed
        )
        without_base = self.no_base(f"the chain of the last backup is damaged: {in_words}")
        # An incremental must have at least one disk that is based on the parent.
        return without_base if len(harmed) == len(held) else Base(backup, None, harmed)

    def no_base(self, reason: str) -> Base:
        """Return no base, for a full with this reason. Raises CheckpointGone if the options forbid a full."""
        if self.options.incremental and not self.options.fallback:
            raise CheckpointGone(
                f"no incremental backup of VM {printable(self.vm.name)} is possible: {reason}",
                "Remove --no-fallback to take a full backup.",
            )
        return Base(None, reason)

    def damage_found(self, error: StoredDamage) -> str:
        """Store damage that the sample of unchanged data revealed; return it as the reason for a full."""
        if self.notify is not None:
            known_damage.remember(self.repository, self.vm.id, CHECK, [error.damage], self.notify)
        return in_words(self.repository, error.damage)

    def disks_with_chain(self) -> frozenset[str]:
        """Return the ids of the disks that earlier backups hold incrementally; a full of one of them is unexpected."""
        return frozenset(
            stream.disk_id
            for backup in self.repository.catalog.points(self.vm.id)
            for stream in backup.streams
            if stream.settings.format == "cow"
        )
