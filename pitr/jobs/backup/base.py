# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the backup that an incremental backup is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pitr import times
from pitr.errors import CheckpointGone
from pitr.jobs import known_damage
from pitr.jobs.backup.chain_present import CHECK, damaged_chains, in_words
from pitr.jobs.backup.full_due import full_is_due
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.point_order import newest_first
from pitr.model import Backup
from pitr.ovirt.engine import VM, Disk, Engine, list_checkpoints
from pitr.reporting import Notify
from pitr.repository import Repository, notes
from pitr.repository.damage import StoredDamage
from pitr.repository.pairs import Lists
from pitr.text import printable

_DISTRUSTED = (
    "a rollback has written into the disks, or the last incremental found changes that the engine had missed"
)


@dataclass(frozen=True, slots=True)
class Base:
    """The backup that an incremental is based on, and how its changes are found.

    `parent`: the engine tracked the changes since this backup. Without it, `reason` says why, and pitr reads the disks
    whole: it compares them with the streams of the backup `compared`, or stores them in full if that is None, too.
    `damaged` has the disks (by id) whose chain in this backup is damaged, and why: pitr stores them in full.
    """

    parent: Backup | None
    reason: str | None
    damaged: Mapping[str, str] = field(default_factory=dict)
    compared: Backup | None = None

    @property
    def stored(self) -> Backup | None:
        """The backup whose streams new ones can be based on."""
        return self.parent or self.compared

    def full_disks(self, disks: Sequence[Disk]) -> str | None:
        """Return in words which of the disks an incremental stores in full, and why; None if there are none."""
        harmed = [
            f"disk {printable(disk.name)} in full: {self.damaged[disk.id]}"
            for disk in disks
            if disk.id in self.damaged
        ]
        return "; ".join(harmed) or None


@dataclass(frozen=True, slots=True)
class Bases:
    """The possible bases of a backup of one VM with these `disks`."""

    repository: Repository
    engine: Engine
    vm: VM
    options: BackupOptions
    #: None for a dry run, which stores no findings.
    notify: Notify | None
    states: Lists

    def choose(self, disks: Sequence[Disk]) -> Base:
        """Return the base of an incremental of these disks, or the reason for a full."""
        if self.options.full:
            return Base(None, "requested")
        every = self.options.full_every
        if every is not None and full_is_due(self._points(), every, times.now()):
            return Base(None, f"the last full backup is {times.duration(every.total_seconds())} old or older")
        if any(notes.distrusted(self.states, self.vm.id)):
            return self.no_base(_DISTRUSTED, disks)
        return self._newest_base(disks)

    def _points(self) -> list[Backup]:
        return self.repository.catalog_of_vm(self.vm.id).points(self.vm.id)

    def _newest_base(self, disks: Sequence[Disk]) -> Base:
        """Find the newest backup whose checkpoint the engine still has, and the disks with a damaged chain."""
        points = self._points()
        ours = {backup.checkpoint_id: backup for backup in points if backup.checkpoint_id is not None}
        if not points:
            return self.no_base("the repository holds no backup of this VM yet", disks)
        if not ours:
            reason = "no backup of this VM has a checkpoint (the engine makes none for raw disks)"
            base = self._to_compare(reason, disks)
            return base if base.compared is not None else self.no_base(reason, disks)
        on_engine = list_checkpoints(self.engine, self.vm.id)
        # The engine lists its checkpoints from the root to the leaf. Follow this order, not the clock.
        for checkpoint in reversed(on_engine):
            backup = ours.get(checkpoint.id)
            if not checkpoint.valid:
                # The changes since a checkpoint need all later checkpoints.
                return self.no_base(
                    f"a checkpoint since the last backup is invalid on the engine ({checkpoint.id})", disks
                )
            if backup is None:
                continue
            return self._with_good_chains(backup, disks)
        return self.no_base(
            f"the engine no longer has the checkpoint of the last backup ({next(iter(ours))})", disks
        )

    def _with_good_chains(self, backup: Backup, disks: Sequence[Disk]) -> Base:
        try:
            damaged = damaged_chains(self.repository, backup, self.notify)
        except StoredDamage as error:
            return self.no_base(f"the chain of the last backup is damaged: {error.message}", disks)
        held = [disk for disk in disks if backup.stream_of(disk.id) is not None]
        harmed = {disk.id: damaged[disk.id] for disk in held if disk.id in damaged}
        # The engine does not track raw disks.
        tracked = [disk for disk in held if disk.format != "raw"]
        if not harmed:
            return Base(backup, None)
        words = "; ".join(
            f"disk {printable(disk.name)}: {harmed[disk.id]}" for disk in held if disk.id in harmed
        )
        reason = f"the chain of the last backup is damaged: {words}"
        if any(disk.id in harmed for disk in tracked):
            self.untracked(reason)
        # An incremental must have at least one disk that is based on the parent.
        good = any(disk.id not in harmed for disk in tracked)
        return Base(backup, None, harmed) if good else self.no_base(reason, disks)

    def no_base(self, reason: str, disks: Sequence[Disk]) -> Base:
        """Return the base without tracked changes, for this reason: pitr reads the disks whole.

        Raises CheckpointGone if the options forbid that, and a disk is not raw.
        """
        base = self._to_compare(reason, disks)
        if base.compared is None or any(disk.format != "raw" for disk in disks):
            self.untracked(reason)
        return base

    def untracked(self, reason: str) -> str:
        """Return the reason why the engine's changes cannot be used. Raises CheckpointGone if the options need them."""
        if self.options.incremental and not self.options.fallback:
            raise CheckpointGone(
                f"no incremental backup of VM {printable(self.vm.name)} is possible: {reason}",
                "Remove --no-fallback: pitr then reads the disks whole.",
            )
        return reason

    def _to_compare(self, reason: str, disks: Sequence[Disk]) -> Base:
        """Return the base with the newest backup that has a whole chain of one of the disks, if there is one.

        Its chains in newer backups are damaged; without a base, the reason says so.
        """
        harm: list[str] = []
        for backup in newest_first(self._points(), times.now()):
            held = [disk for disk in disks if backup.stream_of(disk.id) is not None]
            if not held:
                continue
            try:
                damaged = damaged_chains(self.repository, backup, self.notify)
            except StoredDamage as error:
                harm.append(f"the record of the backup {backup.backup_id} is damaged: {error.message}")
                continue
            if any(disk.id not in damaged for disk in held):
                harmed = {disk.id: damaged[disk.id] for disk in held if disk.id in damaged}
                return Base(None, reason, harmed, backup)
            harm += [f"disk {printable(disk.name)}: {damaged[disk.id]}" for disk in held]
        # The chains of older backups are damaged for the same reasons.
        words = [words for words in harm[: len(disks)] if words not in reason]
        return Base(None, "; ".join([reason, *words]))

    def damage_found(self, error: StoredDamage) -> str:
        """Store damage that a comparison with stored data revealed; return it as the reason for a full."""
        if self.notify is not None:
            known_damage.remember(self.repository, self.vm.id, CHECK, [error.damage], self.notify)
        return in_words(self.repository, error.damage)

    def disks_with_chain(self) -> frozenset[str]:
        """Return the ids of the disks that the engine has tracked in earlier backups."""
        return frozenset(
            stream.disk_id
            for backup in self._points()
            for stream in backup.streams
            if stream.settings.format == "cow"
        )
