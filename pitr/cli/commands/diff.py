# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr diff`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr import times
from pitr.cli.options import Common, DisksOption, MaxWorkersOption, OnlyVMArgument, with_common

if TYPE_CHECKING:
    from pitr.jobs.diff.two_points import DiskDiff


@with_common()
def diff(
    common: Common,
    vm: OnlyVMArgument = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="The newest point at or before TIME: 2020-06-30T22:00 (local time), …Z, or now; twice.",
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point", metavar="ID", help="This point: a backup id, or the beginning of one; twice."
        ),
    ] = None,
    disk: DisksOption = None,
    extents: Annotated[
        bool, typer.Option("--extents", help="List every range that is different, with its bytes.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Also read what is different by the digests, and compare it block by block."
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also draw a page for a browser, into this new file: it needs no network.",
        ),
    ] = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Show what changed on a VM's disks between two points.

    Figures and a map; with --html a page for a browser, too. The two points are named with --at, --point or one of
    each; the earlier one comes first, in whatever order they are typed. Content is compared by the digests of what is
    stored, no data is read: what a backup stored again unchanged is the same if it was cut into the same frames.
    Across a full, more is reported than changed: --exact reads that, too.

    Examples: pitr diff web1 --at 2020-06-30T10:00 --at 2020-06-30T22:00;
    pitr diff --point 9f8e --point 1c2d --disk system --extents;
    pitr diff web1 --at 2020-06-30T10:00 --at now --html web1.html
    """
    from pitr.cli.display.progress import showing
    from pitr.jobs import documents
    from pitr.jobs.diff import two_points as job

    at_times = [times.parse_at(text) for text in at or ()]
    with common.repository() as repository, ExitStack() as failure:
        before, after = job.choose(repository, vm, at_times, point or ())
        page = None
        if html is not None:
            from pitr.jobs.diff.page import Page

            page = Page(html, repository.catalog_of_vm(after.vm.id), before, after, exact=exact)
            failure.callback(page.abort)
        with showing(common.out, f"diff {after.vm.name}") as progress:
            found = job.diff(
                repository,
                before,
                after,
                disks=disk or (),
                exact=exact,
                workers=common.workers(max_workers),
                look=page.add if page is not None else None,
                progress=progress,
            )
        if page is not None:
            page.finish(found)
        failure.pop_all()
    if common.out.json:
        common.out.document(
            {
                "before": documents.point(before),
                "after": documents.point(after),
                "exact": exact,
                "changed_bytes": sum(one.changed_bytes for one in found),
                "disks": [_document(one, extents=extents) for one in found],
                "html": str(html) if html is not None else None,
            }
        )
        return
    from pitr.cli.display import disk_map

    common.out.show(*disk_map.shown(before, after, found, extents=extents))
    if html is not None:
        common.out.show(f"The page is in {html}.")


def _document(found: DiskDiff, *, extents: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "disk_id": found.disk_id,
        "name": found.name,
        "state": found.state,
        "size_before": found.size_before,
        "size_after": found.size_after,
        "changed_bytes": found.changed_bytes,
        "data_bytes": found.data_bytes,
        "new_bytes": found.new_bytes,
        "rewritten_bytes": found.rewritten_bytes,
        "zero_bytes": found.zero_bytes,
        "extents": len(found.changes),
        "note": found.note,
    }
    if extents:
        document["changes"] = [
            {"start": start, "length": length, "zero": zero} for start, length, zero in found.changes
        ]
    return document
