# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr backup`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli.display import tables
from pitr.cli.display.output import error_document
from pitr.cli.display.progress import showing_each
from pitr.cli.fleet_options import CapOption, FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import Common, DisksOption, DryRunOption, MaxWorkersOption, with_common
from pitr.cli.pipe_options import CompressOption, PipeOptions
from pitr.errors import Interrupted, UsageError
from pitr.jobs import documents, find
from pitr.jobs.backup import many_vms
from pitr.jobs.backup.choose_vms import VMSelection
from pitr.jobs.backup.many_vms import Chosen, FleetInterrupted, FleetReports
from pitr.jobs.backup.one_task import PlaceOfBackups
from pitr.jobs.backup.one_vm import BackupPlan, plan_backup
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.backup.processes import template_for
from pitr.ovirt.engine import Engine
from pitr.repository import Repository
from pitr.repository.history import Failure, VMOfRun
from pitr.text import counted, named, printable
from pitr.units import human_size

VMsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VM",
        help="Names or ids. Default: the VMs in the configuration; without any, the VMs in the repository.",
    ),
]
AllOption = Annotated[
    bool, typer.Option("--all", help="Back up all VMs on the engine; skip VMs without a disk to back up.")
]
TagOption = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TAG", help="Back up the VMs with this tag on the engine; repeatable."),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, max=64, metavar="N", help="Number of VMs to back up at the same time. Default: 1."
    ),
]
IncrementalOption = Annotated[
    bool,
    typer.Option(
        "--incremental",
        help="Back up only changes. If the engine cannot tell them, read the disks whole, store what differs from the "
        "last backup, and say why.",
    ),
]
FullOption = Annotated[bool, typer.Option("--full", help="Back up all data.")]
FullEveryOption = Annotated[
    str | None,
    typer.Option(
        "--full-every",
        metavar="TIME",
        help="Back up all data if the last full backup is at least this old: 36h, 30d, 8w, 6m, 1y.",
    ),
]
LikeOption = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="VM",
        help="At the first backup of a disk, use the stored data that it has in common with this VM (name or id). The "
        "VM must be in the repository. Default: the VMs of the same template.",
    ),
]
NoFallbackOption = Annotated[
    bool,
    typer.Option(
        "--no-fallback",
        help="Fail if the engine cannot tell the changes of a disk. It never tells those of raw disks.",
    ),
]
ExcludeDiskOption = Annotated[
    list[str] | None,
    typer.Option("--exclude-disk", metavar="DISK", help="Leave out this disk (name or id); repeatable."),
]
RequireConsistencyOption = Annotated[
    bool,
    typer.Option("--require-consistency", help="Fail if the guest's file systems cannot be frozen."),
]
LevelOption = Annotated[int, typer.Option("--level", metavar="N", min=-7, max=19, help="zstd level.")]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="FILE|-",
        help="Write one disk's data to this new file, or to standard output (-), not to the repository.",
    ),
]
PutCommandOption = Annotated[
    str | None,
    typer.Option(
        "--put-command",
        metavar="COMMAND",
        help="Pipe each disk's data into this command, not to the repository: 'vendor-put {stream_id}'.",
    ),
]
CheckUnchangedOption = Annotated[
    float,
    typer.Option(
        "--check-unchanged",
        min=0.0,
        max=100.0,
        metavar="PERCENT",
        help="Read this share of the data that the engine reports unchanged (at least ten frames), and compare it "
        "with the repository. 0 reads nothing.",
    ),
]

BusyWaitOption = Annotated[
    str,
    typer.Option(
        "--busy-wait",
        metavar="TIME",
        help="Wait this long at the end of the run for VMs that are busy (locked, migrating, in another backup). "
        "0 does not wait.",
    ),
]


@with_common(engine=True, run="backup", moves_data=True)
def backup(
    common: Common,
    vms: VMsArgument = None,
    every: AllOption = False,
    tag: TagOption = None,
    jobs: JobsOption = None,
    incremental: IncrementalOption = False,
    full: FullOption = False,
    full_every: FullEveryOption = None,
    like: LikeOption = None,
    no_fallback: NoFallbackOption = False,
    disk: DisksOption = None,
    exclude_disk: ExcludeDiskOption = None,
    require_consistency: RequireConsistencyOption = False,
    level: LevelOption = 1,
    to: ToOption = None,
    put_command: PutCommandOption = None,
    compress: CompressOption = None,
    max_workers: MaxWorkersOption = None,
    check_unchanged: CheckUnchangedOption = 0.1,
    busy_wait: BusyWaitOption = "5m",
    scheduler: SchedulerOption = None,
    cap: CapOption = None,
    tls: TlsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Back up VMs: all disks of each VM at one point in time.

    Without --full, pitr takes an incremental backup if the repository holds an earlier one. Where the engine cannot
    tell the changes (raw disks, a lost checkpoint), pitr reads the whole disk, stores only what differs from the last
    backup, and says why. If one of several VMs fails, pitr backs up the others and exits with 1. A VM that is busy
    (locked, migrating, in another backup) is tried again at the end of the run. The hosted engine's VM is skipped.

    Without names, pitr skips VMs that the engine no longer has, VMs that were only imported, and retired VMs ('pitr
    forget --retire'). --tag and --all skip retired VMs, too. Skipped VMs are listed and are no failure.

    With --to or --put-command, the repository keeps only the record and the index of each disk. The data is valid
    only if pitr exits with 0; 'pitr restore --get-command' reads it back. With --to -, pitr prints the result on
    standard error. To use commands for all backups, set put_command, get_command and delete_command under [store]
    in the configuration.

    The first backup of a disk uses the data that the VM of --like, or the VMs of its template, have stored already at
    the same place, and stores only the rest. 'pitr show' says what a disk shares. --full shares nothing, unless you
    give --like.

    With --scheduler, the workers of a fleet do it, each VM on its own host if a worker is there.

    Examples: pitr backup web1 --full; pitr backup --incremental; pitr backup --tag daily --jobs 4;
    pitr backup web2 --like web1; pitr backup --all --scheduler tls://backup:8786;
    pitr backup web1 --disk system --to - | vendor-put
    """
    _check_method(full=full, incremental=incremental, no_fallback=no_fallback)
    if to is None and put_command is None:
        put_command = common.settings.put_command
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
        busy_wait_s=times.parse_wait("--busy-wait", busy_wait),
        full_every=times.parse_span("--full-every", full_every) if full_every is not None else None,
        like=like,
    )
    pipe = PipeOptions(to, put_command, compress)
    way = _Way(jobs, FleetOptions(scheduler, tls, tuple(cap or ())), dry_run)
    _back_up(common, _selection(common, vms, tag, every), options, pipe, way)


@dataclass(frozen=True, slots=True)
class _Way:
    """How many VMs at the same time, and where; `dry_run` only plans."""

    jobs: int | None
    fleet: FleetOptions
    dry_run: bool


def _check_method(*, full: bool, incremental: bool, no_fallback: bool) -> None:
    if full and incremental:
        raise UsageError("--full and --incremental exclude each other")
    if full and no_fallback:
        raise UsageError("--no-fallback goes with incremental backups", "Leave out --full.")


def _selection(common: Common, vms: list[str] | None, tags: list[str] | None, every: bool) -> VMSelection:
    """Return the VMs of the command line, else those of the configuration."""
    if every and (vms or tags):
        raise UsageError(
            "--all already selects every VM", "Leave out --all, or leave out --tag and the names."
        )
    given = VMSelection(tuple(vms or ()), tuple(tags or ()), every)
    return VMSelection(common.settings.vms, common.settings.tags) if given.is_empty else given


def _back_up(
    common: Common,
    selection: VMSelection,
    options: BackupOptions,
    pipe: PipeOptions,
    way: _Way,
) -> None:
    pipe.check()
    way.fleet.check()
    way.fleet.refuse_pipe(pipe.to or pipe.put_command)
    jobs = way.jobs or (None if way.fleet.scheduler else common.settings.jobs)
    with template_for(1 if way.fleet.scheduler else jobs or 1) as template, common.repository() as repository:
        known = selection.or_known(repository)
        common.run.expect([VMOfRun(None if vm.key == vm.name else vm.key, vm.name) for vm in known.vms])
        with common.engine() as engine:
            on_engine = known.on_engine(engine)
            chosen, skipped = on_engine.vms, on_engine.skipped
            _tell_skipped(common, skipped)
            _check_like(repository, chosen, options, pipe)
            _check_one_vm(chosen, options, pipe)
            if way.dry_run:
                plans = [plan_backup(repository, engine, vm.key, options) for vm in chosen]
                _show_plans(common, plans, skipped)
                return
            with pipe.opened() as piping_out:
                running = replace(options, piping_out=piping_out)
                try:
                    outcomes = []
                    if chosen:
                        with way.fleet.place(common, template, jobs, repository.location, engine) as place:
                            outcomes = _run(common, repository, engine, chosen, running, place)
                except FleetInterrupted as interrupt:
                    _note(common, [*interrupt.outcomes, *skipped])
                    common.run.error = Failure.of(interrupt)
                    _show_interrupted(common, interrupt)
                    raise typer.Exit(interrupt.exit_code) from None
    _note(common, [*outcomes, *skipped])
    if len(outcomes) == 1 and outcomes[0].error is not None and not skipped:
        raise outcomes[0].error
    _show(common, [*outcomes, *skipped])
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


def _note(common: Common, outcomes: Sequence[many_vms.Outcome]) -> None:
    """Keep the outcomes for the history of runs."""
    for outcome in outcomes:
        common.run.add(outcome.step)


def _check_one_vm(chosen: Sequence[Chosen], options: BackupOptions, pipe: PipeOptions) -> None:
    if (options.disks or options.exclude_disks) and len(chosen) > 1:
        raise UsageError(
            "--disk and --exclude-disk go with one VM",
            f"Name one of the chosen VMs: {', '.join(vm.name for vm in chosen)}.",
        )
    if pipe.to is not None and len(chosen) != 1:
        raise UsageError("--to takes one disk of one VM", "Name the VM, or use --put-command.")


def _check_like(
    repository: Repository, chosen: Sequence[Chosen], options: BackupOptions, pipe: PipeOptions
) -> None:
    """Raise NoSuchVM if neither the repository nor this run has the VM of --like, UsageError for another output."""
    if options.like is None:
        return
    if pipe.to is not None or pipe.put_command is not None:
        raise UsageError(
            "--like goes with data in the repository, because data elsewhere must be complete",
            "Leave out --like.",
        )
    if all(options.like not in (vm.key, vm.name) for vm in chosen):
        find.vm_named(repository.catalog, options.like)


def _run(
    common: Common,
    repository: Repository,
    engine: Engine,
    chosen: Sequence[Chosen],
    options: BackupOptions,
    place: PlaceOfBackups,
) -> list[many_vms.Outcome]:
    """Back up the VMs with progress, and report each when it is finished. Raises FleetInterrupted."""
    report = _FinishedLines(common, len(chosen))
    with showing_each(common.out, "backup", [vm.name for vm in chosen]) as progress_of:
        return many_vms.back_up_fleet(
            repository.location,
            engine,
            chosen,
            options,
            jobs=place.jobs,
            reports=FleetReports(progress_of, common.out.notify, report.finished),
            elsewhere=place.elsewhere,
        )


class _FinishedLines:
    """One line on standard error for each VM of a run of several."""

    def __init__(self, common: Common, total: int) -> None:
        self._out = common.out
        self._total = total
        self._count = 0

    def finished(self, outcome: many_vms.Outcome) -> None:
        """Report one VM: the time of day, its name, and its result."""
        self._count += 1
        if self._total == 1:
            return
        self._out.notify(
            f"{times.time_of_day()} {printable(outcome.vm.name)}: {_result(outcome)} "
            f"({self._count} of {self._total} VMs)"
        )


def _result(outcome: many_vms.Outcome) -> str:
    backup, error = outcome.backup, outcome.error
    if backup is not None:
        stored = f"{counted(len(backup.streams), 'disk')}, {human_size(backup.stored_bytes)} stored"
        return f"{backup.kind.value}, {stored}, {times.duration(outcome.duration_s)}"
    if error is None:
        return "no result"
    return f"{'skipped' if outcome.skipped else 'FAILED'}: {error.message}. {error.advice}".rstrip()


def _show(common: Common, outcomes: Sequence[many_vms.Outcome]) -> None:
    if common.out.json:
        common.out.document(_document(outcomes))
    elif len(outcomes) == 1 and outcomes[0].backup is not None:
        common.out.show(
            tables.points([outcomes[0].backup], {outcomes[0].backup.backup_id: outcomes[0].facts})
        )
    else:
        common.out.show(tables.fleet(outcomes))


def _show_interrupted(common: Common, interrupt: FleetInterrupted) -> None:
    """Report what is finished."""
    names = ", ".join(printable(vm.name) for vm in interrupt.unfinished)
    if common.out.json:
        unfinished = [vm.name for vm in interrupt.unfinished]
        error = error_document(Interrupted(interrupt.signum))
        document = {**_document(interrupt.outcomes), "unfinished": unfinished, **error}
        common.out.document(document)
    elif interrupt.outcomes:
        common.out.show(tables.fleet(interrupt.outcomes))
    common.out.notify(
        f"{interrupt.message}. {len(interrupt.outcomes)} of {len(interrupt.outcomes) + len(interrupt.unfinished)} VMs "
        f"are finished; not finished: {names or 'none'}"
    )


def _tell_skipped(common: Common, skipped: Sequence[many_vms.Outcome]) -> None:
    """Print one line about the VMs that are left out."""
    if skipped:
        reasons = (
            f"{printable(outcome.vm.name)}: {outcome.error.message}"
            for outcome in skipped
            if outcome.error is not None
        )
        common.out.notify(f"skipped {counted(len(skipped), 'VM')}: {'; '.join(reasons)}")


def _skipped(outcomes: Sequence[many_vms.Outcome]) -> list[dict[str, str]]:
    return [
        {"vm": outcome.vm.name, "reason": outcome.error.message}
        for outcome in outcomes
        if outcome.error is not None and outcome.skipped
    ]


def _document(outcomes: Sequence[many_vms.Outcome]) -> dict[str, Any]:
    failures = [(outcome, outcome.error) for outcome in outcomes if outcome.error is not None]
    return {
        "backups": [
            documents.point(outcome.backup, outcome.facts)
            for outcome in outcomes
            if outcome.backup is not None
        ],
        "failed": [
            {"vm": outcome.vm.name, **error_document(error)} for outcome, error in failures if outcome.failed
        ],
        "skipped": _skipped(outcomes),
    }


def _show_plans(common: Common, plans: Sequence[BackupPlan], skipped: Sequence[many_vms.Outcome]) -> None:
    if common.out.json:
        common.out.document(
            {"dry_run": True, "plans": [asdict(plan) for plan in plans], "skipped": _skipped(skipped)}
        )
        return
    for plan in plans:
        why = f" ({plan.reason})" if plan.reason else f" from checkpoint {plan.from_checkpoint_id}"
        common.out.show(
            f"VM {named(plan.vm_name, plan.vm_id)}: {plan.kind}{why}",
            tables.table(
                ("Disk", "Size", "Format", "Id"),
                ((disk.name, human_size(disk.size), disk.format, disk.id) for disk in plan.disks),
                right=("Size",),
                drop=("Format",),
                least={"Disk": ("cut", 12)},
            ),
            *(f"Left out: {named(disk.name, disk.disk_id)}: {disk.reason}" for disk in plan.left_out),
        )
