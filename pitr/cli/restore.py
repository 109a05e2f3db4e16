# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from pitr import times
from pitr.cli.options import Common, with_common
from pitr.errors import DamageError, UsageError
from pitr.units import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pitr.jobs.choosing import Choice
    from pitr.jobs.restore import Restored, Target
    from pitr.model import Stream


@with_common(engine=True)
def restore(
    common: Common,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="[VM]", help="Name or id; left out: the only VM in the repository."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="The newest point at or before TIME: 2020-06-30T22:00 (local time), …Z.",
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="This point: a backup id, or the beginning of one."),
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", metavar="DISK", help="Only this disk, by name or id; repeatable."),
    ] = None,
    to_new_disks: Annotated[
        bool, typer.Option("--to-new-disks", help="Restore to new disks on the engine (the default).")
    ] = False,
    to_file: Annotated[
        str | None,
        typer.Option(
            "--to-file",
            metavar="PATH",
            help="Restore to an image file; to a folder where there are several disks.",
        ),
    ] = None,
    image_format: Annotated[
        str | None, typer.Option("--format", metavar="raw|qcow2", help="Format of the image files (raw).")
    ] = None,
    storage_domain: Annotated[
        str | None,
        typer.Option(
            "--storage-domain", metavar="SD", help="Where new disks go; left out: where the old ones were."
        ),
    ] = None,
    attach_to: Annotated[
        str | None, typer.Option("--attach-to", metavar="VM", help="Attach the new disks to this VM.")
    ] = None,
    max_workers: Annotated[
        int,
        typer.Option("--max-workers", min=1, max=64, help="Connections and threads, for all disks together."),
    ] = 4,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Restore what is not damaged, list the damaged ranges (they read as zero), and exit with 3.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the point and what would be written; write nothing.")
    ] = False,
) -> None:
    """Restore disks as they were at a point in time. Nothing that exists is written over.

    Each byte is written once; a frame's digest is checked before its bytes are written.

    Examples: pitr restore web1 --at 2020-06-30T22:00; pitr restore --point 1c2d --to-file /var/tmp/web1/
    """
    from pitr.cli.progress import showing
    from pitr.jobs import choosing
    from pitr.jobs import restore as job

    _check(at, point, to_new_disks, to_file, image_format, storage_domain, attach_to)
    time = times.parse_at(at) if at is not None else None
    with common.repository() as repository, ExitStack() as stack:
        catalog = repository.catalog
        chosen_vm = choosing.vm_named(catalog, vm) if vm is not None else None
        if time is not None:
            choice = choosing.point_at(catalog, chosen_vm or choosing.only_vm(catalog), time)
            if not keep_going:
                choosing.check_none_lost(repository, choice.backup, time)
        else:
            choice = choosing.point_named(catalog, point or "", chosen_vm)
        streams = choosing.streams_of(choice.backup, disk or ())
        if not streams:
            raise UsageError(f"the point {choice.backup.backup_id} holds no disks")
        _say(common, choice)
        target = _target(
            common, stack, choice, streams, to_file, image_format or "raw", storage_domain, attach_to
        )
        if dry_run:
            done = job.plan(repository, choice.backup, streams, target, keep_going=keep_going)
        else:
            with showing(common.out, f"restore {printable(choice.backup.vm.name)}") as progress:
                done = job.restore(
                    repository,
                    choice.backup,
                    streams,
                    target,
                    keep_going=keep_going,
                    workers=max_workers,
                    progress=progress,
                )
    _show(common, choice, done, dry_run)
    if any(disk.damaged for disk in done):
        raise typer.Exit(DamageError.exit_code)


def _check(
    at: str | None,
    point: str | None,
    to_new_disks: bool,
    to_file: str | None,
    image_format: str | None,
    storage_domain: str | None,
    attach_to: str | None,
) -> None:
    if (at is None) == (point is None):
        raise UsageError(
            "a restore needs one of --at and --point",
            "Write --at 2020-06-30T22:00, or --point with an id of 'pitr list'.",
        )
    if to_file is not None and to_new_disks:
        raise UsageError("--to-file and --to-new-disks exclude each other")
    if to_file is None and image_format is not None:
        raise UsageError("--format goes with --to-file")
    if image_format not in (None, "raw", "qcow2"):
        raise UsageError(f"--format is raw or qcow2, not {image_format!r}")
    if to_file is not None and (storage_domain is not None or attach_to is not None):
        raise UsageError("--storage-domain and --attach-to go with new disks, not with --to-file")


def _say(common: Common, choice: Choice) -> None:
    backup = choice.backup
    age = f", {times.duration(choice.age_s)} before the time asked for" if choice.age_s else ""
    later = f"; the next later point is of {times.for_people(choice.next_point)}" if choice.next_point else ""
    common.out.notify(
        f"VM {backup.vm.name}: the point of {times.for_people(backup.point)} (backup {backup.backup_id}){age}{later}"
    )


def _target(
    common: Common,
    stack: ExitStack,
    choice: Choice,
    streams: Sequence[Stream],
    to_file: str | None,
    image_format: str,
    storage_domain: str | None,
    attach_to: str | None,
) -> Target:
    if to_file is not None:
        from pitr.jobs.target_files import FilesTarget

        return FilesTarget(to_file, cast(Literal["raw", "qcow2"], image_format), streams)
    from pitr.jobs.target_disks import NewDisksTarget

    engine = stack.enter_context(common.engine())
    return NewDisksTarget(
        engine,
        choice.backup,
        streams,
        storage_domain=storage_domain,
        attach_to=attach_to,
        notify=common.out.notify,
    )


def _show(common: Common, choice: Choice, done: Sequence[Restored], dry_run: bool) -> None:
    from pitr.cli import documents, tables

    if not common.out.json:
        common.out.show(tables.restored(done, planned=dry_run))
        if any(disk.damaged for disk in done):
            common.out.show("DAMAGED, reads as zero:", tables.damaged_ranges(done))
        return
    common.out.document(
        {
            "point": documents.point(choice.backup),
            "age_s": choice.age_s,
            "next_point": times.to_text(choice.next_point) if choice.next_point else None,
            "vm_id": None,
            "dry_run": dry_run,
            "disks": [documents.restored(disk) for disk in done],
        }
    )
