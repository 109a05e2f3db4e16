# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr hold`, `pitr release` and `pitr note`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr import times
from pitr.cli import named_point, point_options
from pitr.cli.options import AtOption, Common, PointOption, PointOrVMArgument, with_common
from pitr.errors import UsageError
from pitr.jobs import documents, holds
from pitr.jobs.facts import facts_of
from pitr.model import Backup
from pitr.repository import Repository, marks
from pitr.repository.marks import MAX_NOTE, Hold
from pitr.text import printable

UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="DATE",
        help="Hold the point until the end of this day, until a time, or for a span such as 90d.",
    ),
]
TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help='The note; "" removes it.')]
NotedPointArgument = Annotated[
    str, typer.Argument(metavar="POINT|VM", help="Backup id of a point or the start of one, or a VM.")
]


@with_common(locks=True)
def hold(
    common: Common,
    name: PointOrVMArgument = None,
    until: UntilOption = None,
    at: AtOption = None,
    point: PointOption = None,
) -> None:
    """Hold a point: neither prune nor forget removes it.

    The points that it is based on stay, too. A second hold replaces the first.

    Examples: pitr hold 1c2d3e4f; pitr hold web1 --at 2020-06-30T22:00 --until 2030-12-31
    """
    held = Hold(holds.end_of(until) if until is not None else None)
    with common.repository() as repository:
        backup = _chosen(common, repository, name, at, point)
        with holds.marking(repository, backup):
            marks.hold(repository.store, backup, held)
        _show(common, repository, backup, f"is {holds.in_words(held)}")


@with_common(locks=True)
def release(
    common: Common, name: PointOrVMArgument = None, at: AtOption = None, point: PointOption = None
) -> None:
    """Release a held point.

    The rules of 'pitr prune' apply to it again.

    Example: pitr release 1c2d3e4f
    """
    with common.repository() as repository:
        backup = _chosen(common, repository, name, at, point)
        held = facts_of(repository, backup).marks.hold
        if held is None:
            common.out.notify("the point is not held")
        elif held.by_rollback:
            raise UsageError(
                f"the point is {holds.in_words(held)}",
                f"End the rollback: pitr rollback --continue {printable(backup.vm.name)}.",
            )
        else:
            with holds.marking(repository, backup):
                marks.hold(repository.store, backup, None)
        _show(common, repository, backup, "is not held")


@with_common(locks=True)
def note(
    common: Common,
    name: NotedPointArgument,
    text: TextArgument,
    at: AtOption = None,
    point: PointOption = None,
) -> None:
    """Write a note on a point.

    'pitr show' and 'pitr list --note' show it.

    Examples: pitr note 1c2d3e4f "before the update"; pitr note web1 --at 2020-06-30T22:00 "clean"
    """
    if len(text) > MAX_NOTE:
        raise UsageError(f"the note has {len(text)} characters", f"A note has at most {MAX_NOTE}.")
    with common.repository() as repository:
        backup = _chosen(common, repository, name, at, point)
        with holds.marking(repository, backup):
            marks.note(repository.store, backup, text.strip() or None)
        said = f"has the note: {printable(text.strip())}" if text.strip() else "has no note"
        _show(common, repository, backup, said)


def _chosen(
    common: Common, repository: Repository, name: str | None, at: str | None, point: str | None
) -> Backup:
    return named_point.point_or_newest(repository, name, point_options.at_most_one(at, point), common.out)


def _show(common: Common, repository: Repository, backup: Backup, said: str) -> None:
    if common.out.json:
        common.out.document({"point": documents.point(backup, facts_of(repository, backup))})
    else:
        common.out.show(
            f"The point of VM {printable(backup.vm.name)} at {times.for_people(backup.point)} "
            f"(backup {backup.backup_id}) {said}."
        )
