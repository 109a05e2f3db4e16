# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr warm`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli import point_options
from pitr.cli.options import AtOption, Common, DryRunOption, OnlyVMArgument, PointOption, choices, with_common
from pitr.cli.point_options import Asked
from pitr.jobs import documents
from pitr.jobs.asked_time import parse
from pitr.jobs.warm import Tier
from pitr.jobs.warm import warm as warm_point
from pitr.text import counted
from pitr.units import human_size

DaysOption = Annotated[
    int, typer.Option("--days", min=1, max=365, metavar="N", help="How many days the data stays readable.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until all data can be read: minutes to hours.")
]
TierOption = Annotated[
    Tier,
    typer.Option(
        "--tier", metavar=choices(Tier), help="How quickly the store brings the data back, and its price."
    ),
]


@with_common()
def warm(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    days: DaysOption = 3,
    wait: WaitOption = False,
    tier: TierOption = Tier.STANDARD,
    dry_run: DryRunOption = False,
) -> None:
    """Ask the store to bring back a point's data from a cold class.

    A lifecycle rule of the bucket may move blobs to a cold storage class. Commands that need such data say so before
    they begin. pitr asks for the blobs that the point needs, and for no others; the rest of the repository must not be
    cold. Without --at and --point, pitr takes the VM's newest point. This needs boto3: pip install 'pitr[lock]'.

    Examples: pitr warm web1 --at 2020-06-30 --dry-run; pitr warm web1 --at 2020-06-30 --days 7 --wait
    """
    asked = point_options.at_most_one(at, point) or Asked(parse("now"), None)
    with common.repository() as repository:
        chosen = asked.find(repository, vm)
        done = warm_point(
            repository,
            chosen.backup,
            chosen.backup.streams,
            days,
            tier,
            wait=wait,
            dry_run=dry_run,
            notify=common.out.notify,
        )
    if common.out.json:
        common.out.document(
            {"dry_run": dry_run, "point": documents.point(chosen.backup), **done.as_document()}
        )
        return
    if done.is_ready:
        common.out.show(f"All {counted(done.ready, 'blob')} of the point can be read.")
        return
    verb = "Would ask" if dry_run else "Asked"
    parts = [f"{verb} for {counted(len(done.asked), 'blob')}" if done.asked else ""]
    parts += [f"{counted(len(done.waiting), 'blob')} are on their way" if done.waiting else ""]
    text = "; ".join(part for part in parts if part)
    end = (
        "All of them can be read now."
        if wait and not dry_run
        else "Repeat the command to see whether they can be read."
    )
    common.out.show(f"{text} ({human_size(done.bytes)}). {end}")
