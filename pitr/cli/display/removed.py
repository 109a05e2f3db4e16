# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of `pitr prune` and `pitr forget`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from pitr import times
from pitr.cli.display import tables
from pitr.cli.display.output import Printer
from pitr.jobs import documents
from pitr.jobs.upkeep.pruned import Pruned
from pitr.text import counted, printable
from pitr.units import human_size

_SHORT_ID = 8
_NEEDED_BY = "needed by "


def show(out: Printer, result: Pruned, *, dry_run: bool) -> None:
    """Print the result, and a line on standard error for each VM that is busy or failed."""
    if out.json:
        out.document(documents.pruned(result, dry_run=dry_run))
    else:
        for part in _in_words(result, dry_run=dry_run):
            out.show(part)
    for failure in result.failed:
        where = f"VM {printable(failure.vm.name)}: " if failure.vm is not None else ""
        out.notify(f"{where}{failure.error.message}. {failure.error.advice}".strip())
    for busy in result.busy:
        out.notify(f"VM {printable(busy.vm.name)} is busy, all its points stay: {busy.message}.")


def _in_words(result: Pruned, *, dry_run: bool) -> Iterator[RenderableType]:
    removed = "Would remove" if dry_run else "Removed"
    yield f"{removed} {counted(len(result.removed), 'point')}{':' if result.removed else '.'}"
    if result.removed:
        yield tables.points(result.removed, result.removed.facts())
    if any(facts.removed is not None for facts in result.removed.facts().values()):
        yield "Their data stays for the grace time: 'pitr undo-prune' takes them back."
    if result.swept:
        yield f"{'Would remove' if dry_run else 'Removed'} the data of earlier removed points:"
        yield tables.points(result.swept, result.swept.facts())
    if result.kept:
        yield f"{'Would keep' if dry_run else 'Kept'} {counted(len(result.kept), 'point')}:"
        yield _kept(result)
    if result.consolidated:
        verb = "Would consolidate" if dry_run else "Consolidated"
        copied = f", {human_size(result.copied_bytes)} copied" if result.copied_bytes else ""
        yield f"{verb} {counted(len(result.consolidated), 'point')}, which then need no other points{copied}."
    if result.busy:
        yield f"Busy, so all points stay: {', '.join(printable(busy.vm.name) for busy in result.busy)}."
    if result.unreferenced:
        yield f"{removed} {counted(len(result.unreferenced), 'unreferenced object')}:"
        yield from result.unreferenced
    yield f"{'Would free' if dry_run else 'Freed'} {human_size(result.freed_bytes)}."


def _kept(result: Pruned) -> RenderableType:
    return tables.table(
        ("Point", "VM", "Kind", "Stored", "Id", "Kept by"),
        (
            (
                times.for_people(item.backup.point),
                item.backup.vm.name,
                item.backup.kind.value,
                human_size(item.backup.stored_bytes),
                item.backup.backup_id[:_SHORT_ID],
                _in_short(item.reasons),
            )
            for item in result.kept.items()
        ),
        right=("Stored",),
        drop=("Kind", "Stored"),
        least={"VM": ("cut", 12), "Kept by": ("fold", 16)},
    )


def _in_short(reasons: Sequence[str]) -> str:
    """Return the reasons, with ids as short as in the table, and one id for the points that need this one."""
    rules = [reason for reason in reasons if not reason.startswith(_NEEDED_BY)]
    needed = [reason for reason in reasons if reason.startswith(_NEEDED_BY)]
    if needed:
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        rules.append(needed[0][: len(_NEEDED_BY) + _SHORT_ID] + more)
    return ", ".join(rules)
