# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from pitr import times
from pitr.cli import point_options
from pitr.cli.commands import restore_from, restore_to
from pitr.cli.options import (
    AtOption,
    Common,
    DisksOption,
    MaxWorkersOption,
    OnlyVMArgument,
    PointOption,
    with_common,
)
from pitr.errors import DamageError, UsageError
from pitr.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pitr.endpoints.streams.commands import CommandTemplate
    from pitr.jobs.find import Choice
    from pitr.jobs.restore.target import Restored, Target
    from pitr.model import Stream
    from pitr.repository import Repository


@with_common(engine=True)
def restore(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    disk: DisksOption = None,
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
    disk_map: Annotated[
        list[str] | None,
        typer.Option(
            "--disk-map",
            metavar="DISK=SD",
            help="Another storage domain for this disk, or for all that were on the domain named DISK; repeatable.",
        ),
    ] = None,
    attach_to: Annotated[
        str | None, typer.Option("--attach-to", metavar="VM", help="Attach the new disks to this VM.")
    ] = None,
    as_new_vm: Annotated[
        str | None,
        typer.Option(
            "--as-new-vm", metavar="NAME", help="Restore to a new VM with the saved configuration, left down."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="CLUSTER", help="Where the new VM goes; left out: as before."),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start the new VM.")] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Put the restored disks in place of the VM's, which is down; the old ones are kept, renamed.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare the checksum of what was stored with the repository's (always, with --replace).",
        ),
    ] = False,
    from_stream: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|-",
            help="Restore one stream of a whole disk, without a repository; - is standard input.",
        ),
    ] = None,
    get_command: Annotated[
        str | None,
        typer.Option(
            "--get-command",
            metavar="COMMAND",
            help="Gives back data that was piped out: 'vendor-get {stream_id}'. Each is read once, front to back.",
        ),
    ] = None,
    max_workers: MaxWorkersOption = None,
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

    Examples: pitr restore web1 --at 2020-06-30T22:00; pitr restore --point 1c2d --to-file /var/tmp/web1/;
    pitr restore web1 --at 2020-06-30T22:00 --as-new-vm web1-rescued --start;
    vendor-get 1234 | pitr restore --from - --to-file system.raw
    """
    from pitr.jobs import find
    from pitr.jobs.restore.verifier import Verifier

    wanted = restore_to.Wanted(
        to_new_disks=to_new_disks,
        to_file=to_file,
        image_format=image_format,
        as_new_vm=as_new_vm,
        replace=replace,
        storage_domain=storage_domain,
        disk_map=tuple(disk_map or ()),
        attach_to=attach_to,
        cluster=cluster,
        start=start,
        verify=verify,
        keep_going=keep_going,
    )
    wanted.check()
    if from_stream is not None:
        if vm or at or point or get_command or dry_run:
            raise UsageError("--from restores a stream: no point, VM or --get-command goes with it")
        restore_from.restore_stream(common, from_stream, wanted, disk or (), common.workers(max_workers))
        return
    asked = point_options.exactly_one("a restore", at, point)
    workers = common.workers(max_workers)
    with common.repository() as repository, ExitStack() as stack:
        chosen = asked.find(repository, vm, check_lost=not keep_going)
        streams = find.some_streams_of(chosen.backup, disk or ())
        common.out.notify(point_options.in_words(chosen))
        template = restore_from.template_for(common, repository, chosen.backup, streams, get_command)
        verifier = Verifier(workers) if verify or replace else None
        target = restore_to.target_of(common, stack, wanted, repository, chosen.backup, streams, verifier)
        if dry_run:
            done = _plan(repository, chosen, streams, target, keep_going)
        else:
            done = _run(
                common,
                repository,
                chosen,
                streams,
                target,
                template,
                keep_going,
                verifier is not None,
                workers,
            )
    _show(common, chosen, done, target.vm_id, verifier.checksums if verifier else {}, dry_run)
    if any(disk.damaged for disk in done):
        raise typer.Exit(DamageError.exit_code)


def _plan(
    repository: Repository,
    chosen: Choice,
    streams: Sequence[Stream],
    target: Target,
    keep_going: bool,
) -> list[Restored]:
    from pitr.jobs.restore import from_repository as job
    from pitr.jobs.restore.from_commands import is_elsewhere, plan_from_commands

    # The indexes are here, wherever the blobs are.
    plan = plan_from_commands if is_elsewhere(repository, chosen.backup, streams) else job.plan
    return plan(repository, chosen.backup, streams, target, keep_going=keep_going)


def _run(
    common: Common,
    repository: Repository,
    chosen: Choice,
    streams: Sequence[Stream],
    target: Target,
    get_command: CommandTemplate | None,
    keep_going: bool,
    verified: bool,
    workers: int,
) -> list[Restored]:
    from pitr.cli.display.progress import showing
    from pitr.jobs.restore import from_repository as job

    backup = chosen.backup
    with showing(common.out, f"restore {printable(backup.vm.name)}") as progress:
        if get_command is None:
            return job.restore(
                repository, backup, streams, target, keep_going=keep_going, workers=workers, progress=progress
            )
        from pitr.jobs.restore.from_commands import restore_from_commands

        return restore_from_commands(
            repository,
            backup,
            streams,
            target,
            get_command,
            keep_going=keep_going,
            verified=verified,
            workers=workers,
            progress=progress,
        )


def _show(
    common: Common,
    chosen: Choice,
    done: Sequence[Restored],
    vm_id: str | None,
    checksums: Mapping[str, str],
    dry_run: bool,
) -> None:
    from pitr.cli.display import tables
    from pitr.jobs import documents

    if not common.out.json:
        common.out.show(tables.restored(done, planned=dry_run))
        if checksums:
            common.out.show(f"Verified by checksum: {len(checksums)} of {len(done)} disks.")
        if vm_id is not None:
            common.out.show(f"VM {vm_id}")
        if any(disk.damaged for disk in done):
            common.out.show("DAMAGED, reads as zero:", tables.damaged_ranges(done))
        return
    common.out.document(
        {
            "point": documents.point(chosen.backup),
            "age_s": chosen.age_s,
            "next_point": times.to_text(chosen.next_point) if chosen.next_point else None,
            "vm_id": vm_id,
            "dry_run": dry_run,
            "disks": [{**documents.restored(disk), "checksum": checksums.get(disk.disk_id)} for disk in done],
        }
    )
