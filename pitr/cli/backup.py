# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr backup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import Interrupted, PitrError, UsageError

if TYPE_CHECKING:
    from pitr.engine import Engine
    from pitr.jobs.backup import BackupOptions
    from pitr.model import Backup
    from pitr.repository import Repository


@with_common(engine=True)
def backup(
    common: Common,
    vms: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VM]...", help="Names or ids; left out: the VMs that the repository knows."),
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
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", metavar="DISK", help="Only this disk, by name or id; repeatable."),
    ] = None,
    require_consistency: Annotated[
        bool,
        typer.Option("--require-consistency", help="Fail when the guest's file systems cannot be frozen."),
    ] = False,
    level: Annotated[int, typer.Option("--level", min=-7, max=19, help="zstd level.")] = 1,
    max_workers: Annotated[
        int,
        typer.Option("--max-workers", min=1, max=64, help="Connections and threads, for all disks together."),
    ] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be backed up, and from where.")
    ] = False,
) -> None:
    """Back up VMs: for each, all its disks at one point in time.

    With neither --incremental nor --full: incremental where possible, else full, saying why.

    Examples: pitr backup web1 --full; pitr backup --incremental
    """
    from pitr.jobs.backup import BackupOptions

    if full and incremental:
        raise UsageError("--full and --incremental exclude each other")
    if full and no_fallback:
        raise UsageError("--no-fallback goes with incremental backups", "Leave out --full.")
    chosen = BackupOptions(
        full=full,
        incremental=incremental or no_fallback,
        fallback=not no_fallback,
        disks=tuple(disk or ()),
        require_consistency=require_consistency,
        level=level,
        workers=max_workers,
    )
    with common.repository() as repository:
        names = list(dict.fromkeys(vms)) if vms else _known_vms(repository)
        if chosen.disks and len(names) > 1:
            raise UsageError(
                "--disk goes with one VM", f"Name the VM; these were chosen: {', '.join(names)}."
            )
        with common.engine() as engine:
            if dry_run:
                _show_plans(common, repository, engine, names, chosen)
            else:
                raise typer.Exit(_back_up_all(common, repository, engine, names, chosen))


def _known_vms(repository: Repository) -> list[str]:
    known = [vm.id for vm in repository.catalog.vms()]
    if not known:
        raise UsageError(
            "no VM is named, and the repository knows none yet", "Name the VMs: pitr backup VM..."
        )
    return known


def _back_up_all(
    common: Common, repository: Repository, engine: Engine, names: list[str], chosen: BackupOptions
) -> int:
    from pitr.cli import documents, tables
    from pitr.cli.output import error_document
    from pitr.cli.progress import showing
    from pitr.jobs.backup import back_up

    made: list[Backup] = []
    failed: list[tuple[str, PitrError]] = []
    for name in names:
        try:
            with showing(common.out, f"backup {name}") as progress:
                made.append(
                    back_up(repository, engine, name, chosen, progress=progress, notify=common.out.notify)
                )
        except Interrupted:
            raise
        except PitrError as error:
            if len(names) == 1:
                raise
            failed.append((name, error))
            common.out.notify(f"{name}: {error.message} {error.advice}")
    if common.out.json:
        common.out.document(
            {
                "backups": [documents.point(backup) for backup in made],
                "failed": [{"vm": name, **error_document(reason)} for name, reason in failed],
            }
        )
    else:
        common.out.show(tables.points(made)) if made else None
        for name, reason in failed:
            common.out.show(f"Failed: {name}: {reason.message}")
    return 1 if failed else 0


def _show_plans(
    common: Common, repository: Repository, engine: Engine, names: list[str], chosen: BackupOptions
) -> None:
    from dataclasses import asdict

    from pitr.cli import tables
    from pitr.jobs.backup import plan_backup
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
            ),
            *(f"Left out: {disk.name} ({disk.disk_id}): {disk.reason}" for disk in plan.left_out),
        )
