# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of `pitr status`: a line for each VM."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.console import RenderableType

from pitr.cli.display import tables
from pitr.jobs.status.report import Status
from pitr.jobs.status.vm_status import State, VMStatus
from pitr.text import counted, printable
from pitr.units import human_size, in_unit_of

#: Spans are shown in the largest unit of which they have two.
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def status(found: Status) -> Iterator[RenderableType]:
    """Yield the table and a line below it."""
    if not found.vms:
        yield "The repository holds no points."
        yield from _sites(found)
        return
    yield tables.table(
        (
            "State",
            "VM",
            "Newest good",
            "Age",
            "Points",
            "Chain",
            "Changed/usual",
            "Stored/usual",
            "Proven",
            "Damaged",
            "Incomplete",
            "Next run",
            "Why",
        ),
        (_row(each, found.time) for each in found.vms),
        right=("Age", "Points", "Chain", "Changed/usual", "Stored/usual", "Damaged", "Incomplete"),
        drop=(
            "Chain",
            "Incomplete",
            "Stored/usual",
            "Next run",
            "Points",
            "Changed/usual",
            "Damaged",
            "Proven",
            "Newest good",
        ),
        least={"VM": ("cut", 12)},
        below=("Why",),
    )
    yield from _sites(found)
    yield from _protection(found)
    yield _summary(found)


def _sites(found: Status) -> Iterator[str]:
    for site in found.sites:
        name = printable(site.place if site.name is None else f"{site.name} ({site.place})")
        if site.copied is None:
            yield f"{site.state.name}: nothing was copied to site {name} yet."
            continue
        lacks = f"lacks {counted(site.behind, 'point')}" if site.behind else "lacks no point"
        if site.oldest is not None:
            lacks += f", the oldest {_span(found.time - site.oldest)} old"
        begin = "" if site.state is State.OK else f"{site.state.name}: "
        yield f"{begin}Site {name} {lacks}; last copied to at {_minute(site.copied)}."


def _row(each: VMStatus, now: datetime) -> tuple[str, ...]:
    points = each.points
    good, last = points.newest_good, points.last
    return (
        each.state.word if each.state is State.OK else each.state.name,
        each.vm.name,
        _minute(good.point) if good is not None else "none",
        _span(each.age) if each.age is not None else "",
        str(points.count),
        str(points.chain_length),
        _beside_usual(last.changed, last.usual_changed),
        _beside_usual(last.stored, last.usual_stored),
        f"{_span(now - points.proven_at)} ago" if points.proven_at is not None else "never",
        str(len(points.damaged) or ""),
        str(len(points.incomplete) or ""),
        _minute(each.next_run) if each.next_run is not None else "",
        "; ".join([*each.reasons, *(["retired"] if points.retired else [])]),
    )


def _minute(time: datetime) -> str:
    """Return local time to the minute, which `--at` takes."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def _span(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    unit, name = next((unit for unit in _UNITS if seconds >= 2 * unit[0]), _UNITS[-1])
    return f"{int(seconds // unit)} {name}"


def _beside_usual(value: int, usual: int | None) -> str:
    return f"{human_size(value)}/{in_unit_of(value, usual)}" if usual is not None else human_size(value)


def _protection(found: Status) -> Iterator[RenderableType]:
    if found.protection is not None:
        words = f"{found.protection.words[0].upper()}{found.protection.words[1:]}."
        yield f"{words} {found.protection.advice}".rstrip()


def _summary(found: Status) -> str:
    if found.ok:
        return "All is well." if len(found.vms) == 1 else f"All {counted(len(found.vms), 'VM')} are well."
    counts = [
        f"{found.count(state)} {state.word}"
        for state in (State.CRITICAL, State.WARNING)
        if found.count(state)
    ]
    return f"{', '.join(counts)}, {found.count(State.OK)} ok."
