# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr drill`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli import named_point, point_options
from pitr.cli.display import tables
from pitr.cli.display.progress import showing
from pitr.cli.options import (
    AtOption,
    Common,
    MaxWorkersOption,
    NewestGoodOption,
    OnlyVMOrPointArgument,
    PointOption,
    with_common,
)
from pitr.errors import DamageError, PitrError, UsageError
from pitr.jobs import documents, find
from pitr.jobs.facts import facts_of
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.verify import drill as job
from pitr.model import Backup
from pitr.repository import Repository, drills
from pitr.repository.drills import Drill
from pitr.system.target_path import given_path
from pitr.text import printable

_RESULTS = {True: "ok", False: "FAILED", None: "unknown"}

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--in",
        metavar="FOLDER",
        help="Folder for the temporary images. Default: TMPDIR.",
        parser=given_path("--in"),
    ),
]
DigestsOnlyOption = Annotated[
    bool, typer.Option("--digests-only", help="Create no images: read all data and compare the digests.")
]


@with_common(run="drill", moves_data=True)
def drill(
    common: Common,
    vm: OnlyVMOrPointArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    folder: FolderOption = None,
    digests_only: DigestsOnlyOption = False,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Prove that a point can be restored.

    pitr restores all disks of the point to temporary images. It compares their checksums, checks them with qemu-img,
    and looks for partition tables and file systems; e2fsck checks ext file systems. Without --at and --point, pitr
    takes the newest point, even if it is known to be damaged: a drill reads it again. The repository stores the
    result, and 'pitr list' shows it. If a check fails, pitr exits with 3.

    Examples: pitr drill web1; pitr drill 1c2d3e4f; pitr drill web1 --at 2020-06-30T22:00 --in /var/tmp
    """
    unnamed = at is None and point is None
    given = point_options.exactly_one("a drill", "now" if unnamed else at, point, newest_good=newest_good)
    _check_folder(folder, digests_only=digests_only)
    with common.repository() as repository:
        vm, by_id = named_point.vm_or_point(repository, vm, None if unnamed and not newest_good else given)
        asked = by_id or given
        # A drill is a check: it reads a damaged point again, unless you ask for a good one.
        wanted = GoodPoint((), check="drill", refuse=False)
        chosen = asked.find_good(repository, vm, wanted, common.out.notify)
        point_options.tell(common.out, chosen)
        point_options.warn(common.out, chosen, ())
        backup = chosen.backup
        common.run.about(backup)
        streams = find.some_streams_of(backup, ())
        with showing(common.out, f"drill {printable(backup.vm.name)}") as progress:
            result = job.drill(
                repository,
                backup,
                streams,
                folder=folder,
                digests_only=digests_only,
                workers=common.workers(max_workers),
                progress=progress,
            )
        _store(common, repository, result)
        common.run.detail = _verdict(result)
        facts = facts_of(repository, backup)
    if common.out.json:
        common.out.document({"point": documents.point(backup, facts), "drill": _document(result)})
    else:
        _show(common, backup, result)
    if not result.ok:
        raise typer.Exit(DamageError.exit_code)


def _check_folder(folder: Path | None, *, digests_only: bool) -> None:
    if folder is not None and digests_only:
        raise UsageError("--in and --digests-only exclude each other")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"folder {folder} does not exist", "Create it, or name another folder with --in.")


def _store(common: Common, repository: Repository, result: Drill) -> None:
    """Keep the result in the repository; a read-only repository is no failure."""
    try:
        drills.add(repository.store, result)
    except PitrError as error:
        common.out.notify(f"cannot store the result of the drill: {error.message}")


def _document(result: Drill) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "time": times.to_text(result.time),
        "image": result.image,
        "duration_s": result.duration_ms / 1000,
        "disks": [{**asdict(disk), "ok": disk.ok} for disk in result.disks],
    }


def _verdict(result: Drill) -> str:
    """Return the result in capitals. Without a known file system nothing proves that the disks are of use."""
    if not result.ok:
        return "FAILED"
    found = {finding.what for disk in result.disks for finding in disk.findings if finding.ok}
    return "PROVEN" if found & {"partitions", "content"} else "RESTORED, BUT NOTHING WAS RECOGNIZED"


def _show(common: Common, backup: Backup, result: Drill) -> None:
    common.out.show(
        tables.table(
            ("Disk", "Check", "Result", "Found"),
            (
                (disk.name, finding.what, _RESULTS[finding.ok], finding.message)
                for disk in result.disks
                for finding in disk.findings
            ),
            least={"Disk": ("cut", 12), "Found": ("fold", 24)},
        ),
        f"{_verdict(result)}: VM {printable(backup.vm.name)} at "
        f"{times.for_people(backup.point)}, in {times.duration(result.duration_ms / 1000)}.",
    )
