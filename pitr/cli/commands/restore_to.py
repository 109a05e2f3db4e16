# SPDX-License-Identifier: GPL-2.0-or-later
"""Where `pitr restore` restores to: which options go together, and the target that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from pitr.cli.options import Common
from pitr.errors import UsageError

if TYPE_CHECKING:
    from pitr.jobs.restore.target import Target
    from pitr.jobs.restore.verifier import Verifier
    from pitr.model import Backup, Stream
    from pitr.repository import Repository


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of the target."""

    to_new_disks: bool = False
    to_file: str | None = None
    image_format: str | None = None
    as_new_vm: str | None = None
    replace: bool = False
    storage_domain: str | None = None
    disk_map: tuple[str, ...] = ()
    attach_to: str | None = None
    cluster: str | None = None
    start: bool = False
    verify: bool = False
    keep_going: bool = False

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        kinds = {
            "--to-file": self.to_file is not None,
            "--to-new-disks": self.to_new_disks,
            "--as-new-vm": self.as_new_vm is not None,
            "--replace": self.replace,
        }
        named = [option for option, given in kinds.items() if given]
        if len(named) > 1:
            raise UsageError(f"{named[0]} and {named[1]} exclude each other")
        if self.to_file is None and self.image_format is not None:
            raise UsageError("--format goes with --to-file")
        if self.image_format not in (None, "raw", "qcow2"):
            raise UsageError(f"--format is raw or qcow2, not {self.image_format!r}")
        if self.to_file is not None and (self.storage_domain or self.attach_to or self.disk_map):
            raise UsageError(
                "--storage-domain, --disk-map and --attach-to go with new disks, not with --to-file"
            )
        if self.attach_to is not None and (self.as_new_vm or self.replace):
            raise UsageError("--attach-to goes with --to-new-disks")
        if self.as_new_vm is None and (self.cluster is not None or self.start):
            raise UsageError("--cluster and --start go with --as-new-vm")
        if self.as_new_vm is not None and not self.as_new_vm.strip():
            raise UsageError("--as-new-vm needs the name of the new VM")
        if self.keep_going and (self.verify or self.replace):
            raise UsageError(
                "--keep-going restores what is not whole: it goes with neither --verify nor --replace"
            )

    def map(self) -> dict[str, str]:
        """`--disk-map` as what is mapped, and the storage domain that it goes to. Raises UsageError."""
        found: dict[str, str] = {}
        for item in self.disk_map:
            old, _, new = item.rpartition("=")
            if not old or not new or found.get(old, new) != new:
                raise UsageError(
                    f"--disk-map {item!r} is not DISK=SD",
                    "Write it once for each disk: --disk-map data=fast.",
                )
            found[old] = new
        return found


def target_of(
    common: Common,
    stack: ExitStack,
    wanted: Wanted,
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    verifier: Verifier | None,
) -> Target:
    """The target; an engine that it needs stays connected until `stack` is closed."""
    if wanted.to_file is not None:
        from pitr.jobs.restore.to_files import FilesTarget

        image_format = cast(Literal["raw", "qcow2"], wanted.image_format or "raw")
        return FilesTarget(wanted.to_file, image_format, streams, verifier=verifier)
    from pitr.jobs.upkeep.uploads import UploadNotes

    disk_map = wanted.map()
    engine = stack.enter_context(common.engine())
    notes = UploadNotes(repository)
    if wanted.as_new_vm is not None:
        from pitr.jobs.restore.to_new_vm import NewVMTarget

        return NewVMTarget(
            engine,
            repository.record_of(backup.backup_id),
            streams,
            wanted.as_new_vm,
            cluster=wanted.cluster,
            storage_domain=wanted.storage_domain,
            disk_map=disk_map,
            start=wanted.start,
            verifier=verifier,
            notes=notes,
            notify=common.out.notify,
        )
    if wanted.replace:
        from pitr.jobs.restore.replace_disks import ReplacedDisksTarget
        from pitr.jobs.restore.verifier import Verifier

        return ReplacedDisksTarget(
            engine,
            backup,
            streams,
            storage_domain=wanted.storage_domain,
            disk_map=disk_map,
            verifier=verifier or Verifier(1),
            notes=notes,
            notify=common.out.notify,
        )
    from pitr.jobs.restore.to_new_disks import NewDisksTarget

    return NewDisksTarget(
        engine,
        backup,
        streams,
        storage_domain=wanted.storage_domain,
        disk_map=disk_map,
        attach_to=wanted.attach_to,
        verifier=verifier,
        notes=notes,
        notify=common.out.notify,
    )
