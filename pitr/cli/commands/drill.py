# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr drill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr import times
from pitr.cli import point_options
from pitr.cli.options import Common, MaxWorkersOption, OnlyVMArgument, PointOption, with_common
from pitr.errors import DamageError, PitrError, UsageError

if TYPE_CHECKING:
    from pitr.repository import Repository
    from pitr.repository.drills import Drill

_SHOWN = {True: "ok", False: "FAILED", None: "unknown"}


@with_common()
def drill(
    common: Common,
    vm: OnlyVMArgument = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="The newest point at or before TIME; left out: the newest."
        ),
    ] = None,
    point: PointOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--in", metavar="FOLDER", help="Where the temporary images go, instead of TMPDIR."),
    ] = None,
    digests_only: Annotated[
        bool, typer.Option("--digests-only", help="Make no images: read everything and compare the digests.")
    ] = False,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Rehearse a restore of all disks of a point. How it went is remembered: 'pitr list' shows it.

    The point is restored to temporary images, which are compared by checksum, checked by qemu-img, and looked into:
    partition tables, file systems, e2fsck on ext ones. Exit code 3 when something is not as it should be.

    Examples: pitr drill web1; pitr drill web1 --at 2020-06-30T22:00 --in /var/tmp
    """
    from pitr.cli.display.progress import showing
    from pitr.jobs import find
    from pitr.jobs.verify import drill as job

    asked = point_options.exactly_one("a drill", "now" if at is None and point is None else at, point)
    if folder is not None and digests_only:
        raise UsageError("--digests-only makes no images: --in does not go with it")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "Make it, or name another one with --in.")
    with common.repository() as repository:
        backup = asked.find(repository, vm).backup
        streams = find.some_streams_of(backup, ())
        with showing(common.out, f"drill {backup.vm.name}") as progress:
            result = job.drill(
                repository,
                backup,
                streams,
                folder=folder,
                digests_only=digests_only,
                workers=common.workers(max_workers),
                progress=progress,
            )
        _remember(common, repository, result)
    if common.out.json:
        from pitr.jobs import documents

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
    from pitr.cli.display import tables

    common.out.show(
        tables.table(
            ("Disk", "Looked at", "Result", "Found"),
            (
                (disk.name, finding.what, _SHOWN[finding.ok], finding.message)
                for disk in result.disks
                for finding in disk.findings
            ),
            least={"Disk": ("cut", 12), "Found": ("fold", 24)},
        ),
        f"{'PROVEN' if result.ok else 'FAILED'}: VM {vm_name} at {point}, "
        f"in {times.duration(result.duration_ms / 1000)}.",
    )
