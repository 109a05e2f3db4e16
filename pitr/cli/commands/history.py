# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr history`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from pitr import times
from pitr.cli.display import tables
from pitr.cli.options import Common, with_common
from pitr.jobs import documents, find
from pitr.repository import history as stored
from pitr.repository.history import RunOutcome, StepOutcome
from pitr.text import printable

#: How many VMs a row of the table names.
_NAMED = 3

OnlyRunsOfVMOption = Annotated[
    str | None, typer.Option("--vm", metavar="VM", help="Only runs about this VM (name or id).")
]
LastRunsOption = Annotated[
    int | None, typer.Option("--last", min=1, metavar="N", help="Only the last N of these runs.")
]
FailedRunsOption = Annotated[bool, typer.Option("--failed", help="Only runs that failed.")]


@with_common()
def history(
    common: Common,
    vm: OnlyRunsOfVMOption = None,
    last: LastRunsOption = None,
    failed: FailedRunsOption = False,
) -> None:
    """List past runs, failed ones included, newest first.

    Each run of backup, restore, verify, drill, prune and run leaves its outcome in the repository, also if the engine
    was unreachable. Dry runs leave none. 'pitr prune' removes outcomes that are older than 400 days.

    Examples: pitr history --last 10; pitr history --vm web1 --failed
    """
    with common.repository() as repository:
        found = list(islice(stored.outcomes(repository.store, vm=vm, failed=failed), last))
        if vm is not None and not found and not repository.opens:
            # A name finds nothing where names are sealed.
            find.vms_of(repository, vm)
    if common.out.json:
        common.out.document({"runs": [documents.run(outcome) for outcome in found]})
    else:
        common.out.show(_table(found, vm))


def _table(runs: list[RunOutcome], vm: str | None) -> RenderableType:
    if not runs:
        return Text("The repository holds no such run.")
    return tables.table(
        ("Ended", "Run", "VM", "Result", "Took", "Details"),
        (
            (
                times.for_people(run.ended),
                " ".join((run.command, *([run.policy] if run.policy else []))),
                _vms(run),
                _result(run),
                times.duration((run.ended - run.started).total_seconds()),
                _details(run, vm),
            )
            for run in runs
        ),
        right=("Took",),
        drop=("Took",),
        least={"Run": ("cut", 12), "VM": ("cut", 12), "Details": ("fold", 20)},
        below=("Details",),
    )


def _vms(run: RunOutcome) -> str:
    names = list(dict.fromkeys(printable(step.vm.name) for step in run.steps if step.vm is not None))
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _result(run: RunOutcome) -> str:
    if run.ok:
        return "ok"
    failed = sum(step.ok is False for step in run.steps)
    return f"FAILED {failed} of {len(run.steps)}" if len(run.steps) > 1 else "FAILED"


def _details(run: RunOutcome, vm: str | None) -> str:
    if run.error is not None:
        return run.error.message
    for step in run.steps:
        if step.ok is False and (vm is None or _is_about(step, vm)):
            words = step.error.message if step.error is not None else step.detail or ""
            return f"{printable(step.vm.name)}: {words}" if step.vm is not None and words else words
    if not run.ok:
        return f"exit code {run.exit_code}"
    if len(run.steps) > 1:
        return f"{len(run.steps)} steps"
    return next((step.detail for step in run.steps if step.detail), "")


def _is_about(step: StepOutcome, vm: str) -> bool:
    return step.vm is not None and vm in (step.vm.id, step.vm.name)
