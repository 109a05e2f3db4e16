# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr drill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr import times
from pitr.cli.options import Common, MaxWorkersOption, with_common
from pitr.errors import DamageError, PitrError, UsageError

if TYPE_CHECKING:
    from pitr.repository import Repository
    from pitr.repository.drills import Drill

_SHOWN = {True: "ok", False: "FAILED", None: "unknown"}


@with_common()
def drill(
    common: Common,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="[VM]", help="Name or id; left out: the only VM in the repository."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="The newest point at or before TIME; left out: the newest."
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="This point: a backup id, or the beginning of one."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--in", metavar="FOLDER", help="Where the temporary images go, instead of TMPDIR."),
    ] = None,
    digests_only: Annotated[
        bool, typer.Option("--digests-only", help="Make no images: read everything and compare the digests.")
    ] = False,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Rehearse a restore of all disks of a point, and remember how it went: 'pitr list' shows it.

    The point is restored to temporary images, which are compared by checksum, checked by qemu-img, and looked into:
    partition tables, file systems, e2fsck on ext ones. Exit code 3 when something is not as it should be.

    Examples: pitr drill web1; pitr drill web1 --at 2020-06-30T22:00 --in /var/tmp
    """
    from pitr.cli.progress import showing
    from pitr.jobs import choosing
    from pitr.jobs import drill as job

    if at is not None and point is not None:
        raise UsageError("--at and --point exclude each other")
    if folder is not None and digests_only:
        raise UsageError("--digests-only makes no images: --in does not go with it")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "Make it, or name another one with --in.")
    time = times.parse_at(at or "now") if point is None else None
    with common.repository() as repository:
        backup = choosing.point_of(repository, vm, point, time).backup
        if not backup.streams:
            raise UsageError(f"the point {backup.backup_id} holds no disks")
        with showing(common.out, f"drill {backup.vm.name}") as progress:
            result = job.drill(
                repository,
                backup,
                backup.streams,
                folder=folder,
                digests_only=digests_only,
                workers=common.workers(max_workers),
                progress=progress,
            )
        _remember(common, repository, result)
    if common.out.json:
        from pitr.cli import documents

        common.out.document({"point": documents.point(backup), "drill": _document(result)})
    else:
        _show(common, result, backup.vm.name, times.for_people(backup.point))
    if not result.ok:
        raise typer.Exit(DamageError.exit_code)


def _remember(common: Common, repository: Repository, result: Drill) -> None:
    from pitr.repository import drills

    try:
        drills.add(repository.store, result)
    except PitrError as error:
        # A repository that can only be read can be rehearsed as well.
        common.out.notify(f"the result is not kept: {error.message}")


def _document(result: Drill) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "ok": result.ok,
        "time": times.to_text(result.time),
        "image": result.image,
        "duration_s": result.duration_ms / 1000,
        "disks": [{**asdict(disk), "ok": disk.ok} for disk in result.disks],
    }


def _show(common: Common, result: Drill, vm_name: str, point: str) -> None:
    from pitr.cli import tables

    common.out.show(
        tables.table(
            ("Disk", "Looked at", "Result", "Found"),
            (
                (disk.name, finding.what, _SHOWN[finding.ok], finding.message)
                for disk in result.disks
                for finding in disk.findings
            ),
        ),
        f"{'PROVEN' if result.ok else 'FAILED'}: VM {vm_name} at {point}, "
        f"in {times.duration(result.duration_ms / 1000)}.",
    )
