# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr backup`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, DisksOption, MaxWorkersOption, choices, with_common
from pitr.cli.pipe_options import Compression, PipeOptions
from pitr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pitr.jobs.backup.many_vms import Chosen
    from pitr.jobs.backup.one_vm import BackupOptions
    from pitr.ovirt.engine import Engine
    from pitr.repository import Repository


@with_common(engine=True)
def backup(
    common: Common,
    vms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VM",
            help="Names or ids; left out: the VMs that the configuration names, else those in the repository.",
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="All VMs on the engine; those without a disk to back up are skipped."),
    ] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="The VMs with this tag on the engine; repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, max=64, metavar="N", help="How many VMs at a time (1).")
    ] = None,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="Only what changed; a full, with the reason, where that is not possible."
        ),
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="All data.")] = False,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Refuse a backup that cannot be incremental.")
    ] = False,
    disk: DisksOption = None,
    exclude_disk: Annotated[
        list[str] | None,
        typer.Option("--exclude-disk", metavar="DISK", help="Leave out this disk; repeatable."),
    ] = None,
    require_consistency: Annotated[
        bool,
        typer.Option("--require-consistency", help="Fail when the guest's file systems cannot be frozen."),
    ] = False,
    level: Annotated[int, typer.Option("--level", metavar="N", min=-7, max=19, help="zstd level.")] = 1,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FILE|-",
            help="Where the data of one disk goes instead of the repository: a new file, or - for standard output.",
        ),
    ] = None,
    put_command: Annotated[
        str | None,
        typer.Option(
            "--put-command",
            metavar="COMMAND",
            help="Takes the data of a disk on its standard input, instead of the repository: 'vendor-put {stream_id}'.",
        ),
    ] = None,
    compress: Annotated[
        Compression | None,
        typer.Option("--compress", metavar=choices(Compression), help="With --to or --put-command (zstd)."),
    ] = None,
    max_workers: MaxWorkersOption = None,
    check_unchanged: Annotated[
        float,
        typer.Option(
            "--check-unchanged",
            min=0.0,
            max=100.0,
            metavar="PERCENT",
            help="Read so much of what is claimed unchanged, ten frames at least, and compare it; 0: nothing.",
        ),
    ] = 0.1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be backed up, and from where.")
    ] = False,
) -> None:
    """Back up VMs: for each, all its disks at one point in time.

    With neither --incremental nor --full: incremental where possible, else full, saying why. Of several VMs one that
    fails does not stop the others; the exit code is 1 then.

    With --to and --put-command the repository keeps the index and the record only: 'pitr restore --get-command' reads
    the data back. What they took counts only if pitr ends with 0; with --to - the result is on standard error. The
    configuration can name put_command, get_command and delete_command under [store], for all backups.

    Examples: pitr backup web1 --full; pitr backup --incremental; pitr backup --tag daily --jobs 4;
    pitr backup web1 --disk system --to - | vendor-put
    """
    from pitr.jobs.backup.one_vm import BackupOptions

    if full and incremental:
        raise UsageError("--full and --incremental exclude each other")
    if full and no_fallback:
        raise UsageError("--no-fallback goes with incremental backups", "Leave out --full.")
    if every and (vms or tag):
        raise UsageError("--all leaves nothing to name", "Leave out the VMs and --tag, or --all.")
    if to is None and put_command is None:
        put_command = common.settings.put_command
    pipe = PipeOptions(to, put_command, compress)
    pipe.check()
    options = BackupOptions(
        full=full,
        incremental=incremental or no_fallback,
        fallback=not no_fallback,
        disks=tuple(disk or ()),
        exclude_disks=tuple(exclude_disk or ()),
        require_consistency=require_consistency,
        level=level,
        workers=common.workers(max_workers),
        check_unchanged=check_unchanged,
    )
    with common.repository() as repository:
        named, tags = _asked_for(common, repository, vms or (), tag or (), every)
        with common.engine() as engine:
            from pitr.jobs.backup import many_vms

            chosen = many_vms.choose(engine, named, tags, every=every)
            if (options.disks or options.exclude_disks) and len(chosen) > 1:
                raise UsageError(
                    "--disk and --exclude-disk go with one VM",
                    f"Name the VM; these were chosen: {', '.join(vm.name for vm in chosen)}.",
                )
            if to is not None and len(chosen) != 1:
                raise UsageError("--to takes one disk of one VM", "Name it, or use --put-command.")
            if dry_run:
                _show_plans(common, repository, engine, [vm.key for vm in chosen], options)
                return
            with pipe.opened() as piping_out:
                options = replace(options, piping_out=piping_out)
                code = _back_up(
                    common, repository, engine, chosen, options, jobs or common.settings.jobs or 1
                )
    raise typer.Exit(code)


def _asked_for(
    common: Common, repository: Repository, vms: Sequence[str], tags: Sequence[str], every: bool
) -> tuple[list[Chosen], list[str]]:
    """The VMs and tags: those of the command line, else of the configuration, else what the repository knows."""
    from pitr.jobs.backup.many_vms import Chosen

    if not (vms or tags or every):
        vms, tags = common.settings.vms, common.settings.tags
    if vms or tags or every:
        return [Chosen(name, name) for name in dict.fromkeys(vms)], list(tags)
    known = [Chosen(vm.id, vm.name) for vm in repository.catalog.vms()]
    if not known:
        raise UsageError(
            "no VM is named, and the repository knows none yet",
            "Name the VMs: pitr backup VM... (or --tag TAG, or --all).",
        )
    return known, []


def _back_up(
    common: Common,
    repository: Repository,
    engine: Engine,
    chosen: Sequence[Chosen],
    options: BackupOptions,
    jobs: int,
) -> int:
    from pitr.cli.display import tables
    from pitr.cli.display.output import error_document
    from pitr.cli.display.progress import showing_each
    from pitr.jobs import documents
    from pitr.jobs.backup import many_vms

    with showing_each(common.out, "backup", [vm.name for vm in chosen]) as progress_of:
        outcomes = many_vms.back_up_fleet(
            repository.path,
            engine,
            chosen,
            options,
            jobs=jobs,
            progress_of=progress_of,
            notify=common.out.notify,
        )
    made = [outcome.backup for outcome in outcomes if outcome.backup is not None]
    failures = [(outcome, outcome.error) for outcome in outcomes if outcome.error is not None]
    if len(chosen) == 1 and failures:
        raise failures[0][1]
    for outcome, error in failures:
        common.out.notify(f"{outcome.vm.name}: {error.message}. {error.advice}")
    if common.out.json:
        common.out.document(
            {
                "backups": [documents.point(backup) for backup in made],
                "failed": [
                    {"vm": outcome.vm.name, **error_document(error)}
                    for outcome, error in failures
                    if outcome.failed
                ],
                "skipped": [
                    {"vm": outcome.vm.name, "reason": error.message}
                    for outcome, error in failures
                    if outcome.skipped
                ],
            }
        )
    elif len(chosen) == 1:
        common.out.show(tables.points(made))
    else:
        common.out.show(tables.fleet(outcomes))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _show_plans(
    common: Common, repository: Repository, engine: Engine, names: list[str], chosen: BackupOptions
) -> None:
    from dataclasses import asdict

    from pitr.cli.display import tables
    from pitr.jobs.backup.one_vm import plan_backup
    from pitr.units import human_size

    plans = [plan_backup(repository, engine, name, chosen) for name in names]
    if common.out.json:
        common.out.document({"dry_run": True, "plans": [asdict(plan) for plan in plans]})
        return
    for plan in plans:
        why = f" ({plan.reason})" if plan.reason else f" from checkpoint {plan.from_checkpoint_id}"
        common.out.show(
            f"VM {plan.vm_name} ({plan.vm_id}): {plan.kind}{why}",
            tables.table(
                ("Disk", "Size", "Format", "Id"),
                ((disk.name, human_size(disk.size), disk.format, disk.id) for disk in plan.disks),
                right=("Size",),
                drop=("Format",),
                least={"Disk": ("cut", 12)},
            ),
            *(f"Left out: {disk.name} ({disk.disk_id}): {disk.reason}" for disk in plan.left_out),
        )
