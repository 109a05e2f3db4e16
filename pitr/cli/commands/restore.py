# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import typer

from pitr import times
from pitr.cli import point_options
from pitr.cli import restore_options as options
from pitr.cli.commands import restore_from
from pitr.cli.display import places, tables
from pitr.cli.display.progress import showing
from pitr.cli.fleet_options import FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import (
    AtOption,
    Common,
    DisksOption,
    DryRunOption,
    MaxWorkersOption,
    NewestGoodOption,
    OnlyVMArgument,
    PointOption,
    with_common,
)
from pitr.errors import DamageError, UsageError
from pitr.jobs import documents, find, unusual_files
from pitr.jobs.complete_points import check_complete
from pitr.jobs.facts import PointFacts, facts_of
from pitr.jobs.find import Choice
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.restore import from_commands
from pitr.jobs.restore import run as job
from pitr.jobs.restore.choice import ImageFormat, TargetChoice, ToFiles
from pitr.jobs.restore.outcome import TargetOutcome
from pitr.jobs.restore.restored import Restored
from pitr.jobs.restore.selection import DiskSelection
from pitr.jobs.restore.space import short_of_space
from pitr.jobs.restore.target import ReportingTarget, open_target
from pitr.jobs.restore.to_files import FilesTarget
from pitr.jobs.restore.verifier import Verifier
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import printable


@with_common(engine=True, run="restore", moves_data=True)
def restore(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: DisksOption = None,
    to_new_disks: options.ToNewDisksOption = False,
    to_file: options.ToFileOption = None,
    image_format: options.ImageFormatOption = None,
    overwrite_device: options.OverwriteDeviceOption = False,
    reuse: options.ReuseOption = False,
    storage_domain: options.NewDisksDomainOption = None,
    disk_map: options.DiskMapOption = None,
    rename: options.RenameOption = None,
    attach_to: options.AttachToOption = None,
    as_new_vm: options.AsNewVMOption = None,
    cluster: options.ClusterOption = None,
    start: options.StartOption = False,
    no_network: options.NoNetworkOption = False,
    replace: options.ReplaceOption = False,
    verify: options.VerifyOption = False,
    from_stream: options.FromOption = None,
    get_command: options.GetCommandOption = None,
    max_workers: MaxWorkersOption = None,
    keep_going: options.KeepGoingOption = False,
    incomplete: options.IncompleteOption = False,
    dry_run: DryRunOption = False,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Restore disks as they were at a point in time.

    A restore creates new disks, a new VM or new files. It overwrites nothing, except a block device that you name with
    --to-file and --overwrite-device, and an image that you name with --to-file and --reuse. Each byte is written
    once, and pitr verifies the digest of each frame before it writes it.

    --at prefers points with all disks of the VM. --as-new-vm and --replace refuse other points without --incomplete.
    If the point that --at names is damaged, pitr writes nothing, names the newest good point, and exits with 3.

    With --scheduler, several workers write ranges of each disk to a raw file in a folder that all of them share.

    Examples: pitr restore web1 --at 2020-06-30T22:00; pitr restore --point 1c2d --to-file /var/tmp/web1/;
    pitr restore web1 --at 2020-06-30T22:00 --as-new-vm web1-rescued --start;
    pitr restore web1 --at now --to-file /var/tmp/web1/ --reuse;
    pitr restore web1 --at now --to-file /mnt/shared/web1/ --scheduler tls://backup:8786;
    vendor-get 1234 | pitr restore --from - --to-file system.raw
    """
    new_disks = options.NewDiskOptions(storage_domain, tuple(disk_map or ()), attach_to, tuple(rename or ()))
    new_vm = options.NewVMOptions(as_new_vm, cluster, start, no_network)
    target = options.TargetOptions(
        to_new_disks, to_file, image_format, replace, new_vm, new_disks, overwrite_device, reuse
    )
    workers = common.workers(max_workers)
    plan = _RestoreOptions(
        verify or replace, keep_going, get_command, dry_run, workers, incomplete, FleetOptions(scheduler, tls)
    )
    plan.check()
    if reuse:
        plan.check_for_reuse()
    if scheduler is not None:
        plan.check_for_fleet(target.choice(), from_stream)
    if from_stream is not None:
        if vm or at or point or get_command or dry_run or newest_good or reuse:
            raise UsageError(
                "--from restores a stream: it does not go with a VM, a point, --get-command or --reuse"
            )
        plan.check_for_stream()
        restore_from.restore_stream(common, from_stream, target.choice(), disk or (), plan.workers)
        return
    asked = point_options.exactly_one("a restore", at, point, newest_good=newest_good)
    _restore(common, asked, vm, disk or (), target, plan)


@dataclass(frozen=True, slots=True)
class _RestoreOptions:
    """How the restore runs."""

    verify: bool
    keep_going: bool
    get_command: str | None
    dry_run: bool
    workers: int
    incomplete: bool
    fleet: FleetOptions

    def check(self) -> None:
        self.fleet.check()
        if self.keep_going and self.verify:
            raise UsageError(
                "--keep-going restores damaged disks: it goes with neither --verify nor --replace"
            )

    def check_for_reuse(self) -> None:
        if self.keep_going or self.get_command:
            raise UsageError("--reuse goes with neither --keep-going nor --get-command")

    def check_for_fleet(self, choice: TargetChoice, from_stream: str | None) -> None:
        """Raise UsageError for a target that only one machine can write."""
        if from_stream is not None or self.keep_going or self.get_command:
            raise UsageError("--scheduler goes with none of --from, --keep-going and --get-command")
        if not isinstance(choice, ToFiles) or choice.is_nbd or choice.reuse or choice.overwrite_device:
            raise UsageError(
                "--scheduler restores to new files only",
                "Name a folder that all workers share with --to-file.",
            )
        if choice.image_format is not ImageFormat.RAW:
            raise UsageError(
                "several workers can only write a raw file",
                "Use --format raw, or leave out --scheduler.",
            )

    def check_for_stream(self) -> None:
        if self.verify:
            raise UsageError("--verify and --replace go with points of the repository, not with --from")
        if self.keep_going:
            raise UsageError("--keep-going goes with points of the repository, not with --from")


def _restore(
    common: Common,
    asked: point_options.Asked,
    vm: str | None,
    disks: Sequence[str],
    target_options: options.TargetOptions,
    run: _RestoreOptions,
) -> None:
    choice = target_options.choice()
    with common.repository() as repository:
        chosen = _chosen(common, repository, asked, vm, disks, run)
        common.run.about(chosen.backup)
        repository.check_opens()
        if target_options.takes_the_whole_vm is not None and not run.incomplete:
            check_complete(repository, chosen.backup, disks, target_options.takes_the_whole_vm)
        streams = find.some_streams_of(chosen.backup, disks, repository)
        common.out.notify(point_options.in_words(chosen))
        warnings = point_options.warn(common.out, chosen, disks)
        for line in unusual_files.warnings_of(repository, chosen.backup):
            common.out.notify(f"warning: {line}")
            warnings.append(line)

        def warn(line: str) -> None:
            common.out.notify(line)
            warnings.append(line)

        selection = DiskSelection(repository, chosen.backup, tuple(streams), run.keep_going)
        get_command = job.choose_get_command(selection, run.get_command, common.settings.get_command)
        verifier = Verifier(run.workers) if run.verify else None
        with open_target(choice, selection, common.engine, verifier, warn) as target:
            if run.dry_run:
                done = job.plan(selection, target)
            else:
                with showing(common.out, f"restore {printable(chosen.backup.vm.name)}") as progress:
                    done = _on_fleet(common, selection, target, run, progress) or job.run(
                        selection,
                        target,
                        get_command,
                        verified=verifier is not None,
                        workers=run.workers,
                        progress=progress,
                        notify=warn,
                    )
            outcome = target.outcome()
        facts = facts_of(repository, chosen.backup)
    checksums = verifier.checksums if verifier is not None else {}
    for warning in [
        *(short_of_space(outcome, done) if run.dry_run else ()),
        outcome.vm and outcome.vm.warning(),
    ]:
        if warning:
            warn(warning)
    _show(common, _Done(chosen, facts, done, target.vm_id, outcome, checksums, warnings), run.dry_run)
    if any(disk.damaged for disk in done):
        raise typer.Exit(DamageError.exit_code)


def _on_fleet(
    common: Common,
    selection: DiskSelection,
    target: ReportingTarget,
    run: _RestoreOptions,
    progress: Progress | None,
) -> list[Restored] | None:
    """Return the result of the workers; None without a scheduler or a worker."""
    if run.fleet.scheduler is None or not isinstance(target, FilesTarget):
        return None
    from pitr.fleet.points import restore_on  # noqa: PLC0415 - most commands need no fleet

    if from_commands.needs_external(selection):
        raise UsageError(
            "the point's data is stored externally, which only this machine gets",
            "Leave out --scheduler.",
        )
    with run.fleet.watched(common, selection.repository, run.workers, progress) as watched:
        return restore_on(watched, selection, target) if watched is not None else None


def _chosen(
    common: Common,
    repository: Repository,
    asked: point_options.Asked,
    vm: str | None,
    disks: Sequence[str],
    run: _RestoreOptions,
) -> Choice:
    if run.keep_going and not asked.newest_good:
        return asked.find(repository, vm, disks, check_lost=False)
    wanted = GoodPoint(
        disks,
        check=None if run.dry_run else "restore",
        use_damaged="--point {id} --keep-going restores the undamaged ranges of the damaged point.",
    )
    return asked.find_good(repository, vm, wanted, common.out.notify)


@dataclass(frozen=True, slots=True)
class _Done:
    """The result of a restore."""

    chosen: Choice
    facts: PointFacts
    disks: Sequence[Restored]
    vm_id: str | None
    outcome: TargetOutcome
    checksums: Mapping[str, str]
    warnings: Sequence[str]


def _show(common: Common, result: _Done, dry_run: bool) -> None:
    done, checksums, outcome, chosen = result.disks, result.checksums, result.outcome, result.chosen
    if not common.out.json:
        common.out.show(tables.restored(done, planned=dry_run))
        if checksums:
            common.out.show(f"Verified by checksum: {len(checksums)} of {len(done)} disks.")
        for line in places.lines(outcome, done, planned=dry_run):
            common.out.show(line)
        if any(disk.damaged for disk in done):
            common.out.show("DAMAGED, reads as zero:", tables.damaged_ranges(done))
        return
    common.out.document(
        {
            "point": documents.point(chosen.backup, result.facts),
            "age_s": chosen.age_s,
            "next_point": times.to_text(chosen.next_point) if chosen.next_point else None,
            "vm_id": result.vm_id,
            "vm": documents.target_vm(outcome.vm) if outcome.vm is not None else None,
            "dry_run": dry_run,
            "warnings": list(result.warnings),
            "disks": [{**documents.restored(disk), "checksum": checksums.get(disk.disk_id)} for disk in done],
            "places": [documents.place(disk.disk_id, outcome.places[disk.disk_id]) for disk in done],
        }
    )
