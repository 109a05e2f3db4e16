# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr diff`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from pitr.cli.display import disk_map
from pitr.cli.display.progress import showing
from pitr.cli.options import Common, DisksOption, MaxWorkersOption, OnlyVMArgument, with_common
from pitr.errors import PitrError, UsageError
from pitr.jobs import asked_time, documents, find
from pitr.jobs.diff import two_points as job
from pitr.jobs.diff.page import Page
from pitr.jobs.diff.page.screens import screens
from pitr.jobs.diff.two_points import DiskDiff
from pitr.jobs.facts import NO_FACTS, facts_of_vm
from pitr.model import Backup
from pitr.repository import Repository
from pitr.system.target_path import new_file

AtTwiceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Use the newest point within TIME or before it: 2020-06-30T22:00 (local time), 2020-06-30, yesterday, "
        "now, …; repeatable.",
    ),
]
PointTwiceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--point", metavar="ID", help="Use this point: a backup id, or the start of one; repeatable."
    ),
]
ExtentsOption = Annotated[bool, typer.Option("--extents", help="List each changed range, in bytes.")]
ExactOption = Annotated[
    bool,
    typer.Option("--exact", help="Read the ranges whose digests differ, and compare them block by block."),
]
FilesOption = Annotated[
    bool,
    typer.Option(
        "--files",
        help="Show which files were added, removed and changed, counted for each folder, not the disks.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write a page for a browser to this new file; it works without a network.",
        parser=new_file("--html"),
    ),
]


@with_common(moves_data=True)
def diff(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtTwiceOption = None,
    point: PointTwiceOption = None,
    disk: DisksOption = None,
    extents: ExtentsOption = False,
    exact: ExactOption = False,
    files: FilesOption = False,
    html: HtmlOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Show what changed on a VM's disks between two points.

    pitr prints figures and a map, and with --html writes a page for a browser. Name the two points with --at, --point
    or one of each, in any order. pitr compares the digests of the stored frames and reads no data. Across a full
    backup it can report ranges that did not change, because the frames are different: --exact compares their data.

    With --files, pitr reads the file systems and counts files by folder; 'pitr files diff' lists each file.

    Examples: pitr diff web1 --at 2020-06-30T10:00 --at 2020-06-30T22:00;
    pitr diff --point 9f8e --point 1c2d --disk system --extents;
    pitr diff web1 --at 2020-06-30T10:00 --at now --files;
    pitr diff web1 --at 2020-06-30T10:00 --at now --html web1.html
    """
    at_times = [asked_time.parse(text) for text in at or ()]
    if files and (extents or html is not None):
        raise UsageError("--files does not go with --extents and --html", "Run pitr diff twice.")
    comparison = _DiffOptions(disk or (), exact, html, common.workers(max_workers))
    with common.repository() as repository:
        before, after = job.choose(repository, vm, at_times, point or ())
        disks = _compare(common, repository, before, after, comparison)
        changed = _changed_files(common, repository, before, after, comparison) if files else None
        facts = facts_of_vm(repository, after.vm.id)
    if common.out.json:
        common.out.document(
            {
                "before": documents.point(before, facts.get(before.backup_id, NO_FACTS)),
                "after": documents.point(after, facts.get(after.backup_id, NO_FACTS)),
                "exact": exact,
                "changed_bytes": sum(disk_diff.changed_bytes for disk_diff in disks),
                "disks": [_document(disk_diff, extents=extents) for disk_diff in disks],
                "html": str(html) if html is not None else None,
                "files": changed.document if changed is not None else None,
            }
        )
    elif changed is not None:
        common.out.show(*changed.shown)
    else:
        common.out.show(*disk_map.shown(before, after, disks, extents=extents))
        if html is not None:
            common.out.show(f"The page is in {html}.")
    if changed is not None and not changed.complete:
        raise typer.Exit(PitrError.exit_code)


@dataclass(frozen=True, slots=True)
class _DiffOptions:
    """How two points are compared; `html` is the file for the page."""

    disks: Sequence[str]
    exact: bool
    html: Path | None
    workers: int


def _compare(
    common: Common, repository: Repository, before: Backup, after: Backup, comparison: _DiffOptions
) -> list[DiskDiff]:
    with ExitStack() as failure:
        page = None
        if comparison.html is not None:
            catalog = repository.catalog_of_vm(after.vm.id)
            seen = screens(repository, (before, after))
            page = Page(comparison.html, catalog, before, after, exact=comparison.exact, screens=seen)
            failure.callback(page.abort)
        with showing(common.out, f"diff {after.vm.name}") as progress:
            disks = job.diff(
                repository,
                before,
                after,
                disks=comparison.disks,
                exact=comparison.exact,
                workers=comparison.workers,
                look=page.add if page is not None else None,
                progress=progress,
            )
        if page is not None:
            page.finish(disks)
        failure.pop_all()
    return disks


@dataclass(frozen=True, slots=True)
class _ShownFiles:
    """The files that differ, for scripts and for people; `complete` unless some cannot be compared."""

    document: dict[str, Any]
    shown: Sequence[RenderableType]
    complete: bool


def _changed_files(
    common: Common, repository: Repository, before: Backup, after: Backup, comparison: _DiffOptions
) -> _ShownFiles:
    # The readers of file systems take longer to load than a comparison of digests.
    from pitr.cli.display import changed_folders  # noqa: PLC0415
    from pitr.jobs.diff.by_folder import diff_files  # noqa: PLC0415

    streams = find.some_streams_of(after, comparison.disks, repository)
    found = diff_files(repository, before, after, streams, notify=common.out.notify)
    changed_folders.tell(common.out, found)
    shown = list(changed_folders.shown(before, after, found))
    return _ShownFiles(changed_folders.document(found), shown, not found.problems)


def _document(disk: DiskDiff, *, extents: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "disk_id": disk.disk_id,
        "name": disk.name,
        "state": disk.state,
        "size_before": disk.size_before,
        "size_after": disk.size_after,
        "changed_bytes": disk.changed_bytes,
        "data_bytes": disk.data_bytes,
        "new_bytes": disk.new_bytes,
        "rewritten_bytes": disk.rewritten_bytes,
        "zero_bytes": disk.zero_bytes,
        "extents": len(disk.changes),
        "note": disk.note,
        "previous_disk_id": disk.previous_disk_id,
    }
    if extents:
        document["changes"] = [
            {"start": start, "length": length, "zero": zero} for start, length, zero in disk.changes
        ]
    return document
