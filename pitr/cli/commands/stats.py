# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr stats`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli.display import tables
from pitr.cli.keep_options import (
    KeepDailyOption,
    KeepHourlyOption,
    KeepLastOption,
    KeepMonthlyOption,
    KeepWeeklyOption,
    KeepWithinOption,
    KeepYearlyOption,
    rules,
)
from pitr.cli.options import Common, with_common
from pitr.jobs import documents, find
from pitr.jobs import stats as job
from pitr.jobs.stats import GROWTH_OVER, Stats, VMStats
from pitr.units import human_size

StatsVMsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VM", help="Names or ids of VMs. Default: all VMs of the repository."),
]


@with_common()
def stats(
    common: Common,
    vms: StatsVMsArgument = None,
    keep_last: KeepLastOption = None,
    keep_hourly: KeepHourlyOption = None,
    keep_daily: KeepDailyOption = None,
    keep_weekly: KeepWeeklyOption = None,
    keep_monthly: KeepMonthlyOption = None,
    keep_yearly: KeepYearlyOption = None,
    keep_within: KeepWithinOption = None,
) -> None:
    """Show what is stored, how it grows, and when it is full.

    The growth is that of the last 30 days, without the first point of a VM. The forecast holds if all goes on as
    before and nothing is removed. With the rules of 'pitr prune', or with [retention] in the configuration, pitr also
    shows what a prune would free.

    Examples: pitr stats; pitr stats web1 --keep-daily 30 --keep-monthly 12; pitr stats --output json
    """
    retention = rules(
        common,
        keep_last=keep_last,
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_yearly=keep_yearly,
        keep_within=keep_within,
    )
    with common.repository() as repository:
        chosen = list(dict.fromkeys(vm for name in vms or () for vm in find.vms_of(repository, name)))
        found = job.stats(repository, chosen, None if retention.is_empty else retention)
    if common.out.json:
        common.out.document(_document(found))
    else:
        _show(common, found)


def _document(found: Stats) -> dict[str, Any]:
    stored, data = _sums(found)
    return {
        "vms": [_vm(each) for each in found.vms],
        "total": {
            "points": sum(each.totals.points for each in found.vms),
            "stored_bytes": stored,
            "data_bytes": data,
            "ratio": job.ratio_of(stored, data),
            "growth_bytes_per_day": found.growth_bytes_per_day,
            "freed_bytes": found.freed_bytes,
            "unreferenced_bytes": found.unreferenced_bytes,
            "free_bytes": found.free_bytes,
            "capacity_bytes": found.capacity_bytes,
            "full_in_days": found.full_in_days,
        },
    }


def _sums(found: Stats) -> tuple[int, int]:
    stored = sum(each.totals.stored_bytes for each in found.vms)
    return stored, sum(each.totals.data_bytes for each in found.vms)


def _vm(each: VMStats) -> dict[str, Any]:
    totals = each.totals
    return {
        "vm": documents.vm_document(totals.vm),
        "points": totals.points,
        "first": times.to_text(totals.first),
        "newest": times.to_text(totals.newest),
        "stored_bytes": totals.stored_bytes,
        "data_bytes": totals.data_bytes,
        "ratio": each.ratio,
        "growth_bytes_per_day": each.growth_bytes_per_day,
        "freed_bytes": each.freed_bytes,
    }


def _show(common: Common, found: Stats) -> None:
    if not found.vms:
        common.out.show("The repository holds no points.")
        return
    with_freed = found.freed_bytes is not None
    rows = [
        (
            each.totals.vm.name,
            str(each.totals.points),
            times.for_people(each.totals.first),
            human_size(each.totals.stored_bytes),
            _ratio(each.ratio),
            _size(each.growth_bytes_per_day),
            *([_size(each.freed_bytes)] if with_freed else []),
        )
        for each in found.vms
    ]
    stored, data = _sums(found)
    common.out.show(
        tables.table(
            ("VM", "Points", "First", "Stored", "Ratio", "A day", *(["Prune frees"] if with_freed else [])),
            rows,
            right=("Points", "Stored", "Ratio", "A day", "Prune frees"),
            drop=("First", "Ratio"),
            least={"VM": ("cut", 12)},
        ),
        f"Stored: {human_size(stored)}, {_ratio(job.ratio_of(stored, data)) or 'no'} bytes for each byte of data.",
        _forecast(found),
    )
    if found.unreferenced_bytes:
        common.out.show(
            f"A prune also removes {human_size(found.unreferenced_bytes)} of unreferenced objects, which interrupted "
            "runs left."
        )


def _forecast(found: Stats) -> str:
    if found.free_bytes is None or found.capacity_bytes is None:
        return "The repository is in a bucket: its size has no limit that pitr can tell."
    free = f"Free: {human_size(found.free_bytes)} of {human_size(found.capacity_bytes)}"
    growth, days = found.all_growth_bytes_per_day, found.full_in_days
    if growth is None:
        return f"{free}. The points are too young to tell the growth."
    if days is None:
        return f"{free}. Nothing was stored in the last {GROWTH_OVER.days} days."
    when = f"full in {days:.0f} days" if days < 3650 else "not full within ten years"
    return f"{free}. Backups of all VMs store {human_size(growth)} a day: {when} if nothing is removed."


def _size(size: int | None) -> str:
    return "" if size is None else human_size(size)


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
