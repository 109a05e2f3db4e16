# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr import times
from pitr.cli import sites
from pitr.cli.display.output import as_json, as_text, write
from pitr.cli.options import Common, choices, with_common
from pitr.errors import PitrError, RepositoryError
from pitr.jobs.status import nagios, report
from pitr.jobs.status.expected import ExpectedRuns, expected_runs
from pitr.jobs.status.report import Status
from pitr.jobs.status.sites import ExpectedSite
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.system.replace_file import replace_file
from pitr.system.target_path import given_path

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Other users read the file, for example a collector of metrics.
_FILE_MODE = 0o644


class StatusFormat(StrEnum):
    """How `pitr status` prints its result."""

    TEXT = "text"
    JSON = "json"
    NAGIOS = "nagios"
    OPENMETRICS = "openmetrics"


SomeVMsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="VM", help="Names or ids of the VMs. Default: all VMs.")
]
MaxAgeOption = Annotated[
    str | None,
    typer.Option(
        "--max-age",
        metavar="SPAN",
        help="A VM is critical if its newest good point is older: 26h, 3d, 2w. Default: max_age of its policy, or any "
        "age is fine.",
    ),
]
StatusFormatOption = Annotated[
    StatusFormat | None,
    typer.Option(
        "--output", "-o", metavar=choices(StatusFormat), help="Format of the result. Default: text."
    ),
]
ToFileOption = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="FILE",
        help="Replace this file with the result, at once and with mode 0644, and print nothing.",
        parser=given_path("--to"),
    ),
]


@with_common(output=False)
def status(
    common: Common,
    vms: SomeVMsArgument = None,
    max_age: MaxAgeOption = None,
    form: StatusFormatOption = None,
    to: ToFileOption = None,
) -> None:
    """Show for each VM whether its points are fresh, whole and usual.

    One line for each VM, the worst first. A VM is critical if its newest chain is damaged, if no point is whole, or if
    the newest good point is too old. An unusual or incomplete newest point, damaged older points and a failed last
    drill are warnings, and so is a site ([site.NAME]) that is too far behind. pitr tells what is known: 'pitr verify'
    and 'pitr drill' read the data, and 'pitr replicate' looks at the other site.

    If a VM is critical or anything has a warning, pitr exits with 1. With --output nagios, it exits with 1 for a
    warning, 2 for critical and 3 if it cannot tell the state.

    Examples: pitr status; pitr status web1 db1 --max-age 26h; pitr status --output nagios --max-age 26h;
    pitr status --output openmetrics --to /var/lib/prometheus/node-exporter/pitr.prom
    """
    form = form or StatusFormat(common.output or StatusFormat.TEXT)
    limit = times.parse_span("--max-age", max_age) if max_age is not None else None
    give: Callable[[bytes], None] = write if to is None else lambda data: replace_file(to, data, _FILE_MODE)
    try:
        with common.repository() as repository:
            expected = _expected(common, repository, with_times=form is StatusFormat.TEXT)
            found = report.status_of(repository, vms or [], limit, expected, _expected_sites(common))
            printed = _printed(repository, found, form, to_file=to is not None)
    except (RepositoryError, StoredDamage):
        if form is StatusFormat.OPENMETRICS:
            # An old file would tell for ever that all is well.
            give(_metrics(None))
        raise
    if printed is None:
        common.out.show(*_table(found))
    else:
        give(printed)
    if form is StatusFormat.NAGIOS:
        raise typer.Exit(int(found.state))
    if not found.ok:
        raise typer.Exit(PitrError.exit_code)


def _expected(common: Common, repository: Repository, *, with_times: bool) -> ExpectedRuns:
    """Return what the configured policies expect. `with_times`: also when they run next, which only the table shows."""
    tables = common.settings.policies
    if not tables:
        return ExpectedRuns()
    from pitr.jobs.policy_run.policy import Policy  # noqa: PLC0415 - not every status needs it

    policies = [Policy.of(name, table) for name, table in tables.items()]
    next_runs: dict[str, datetime] = {}
    if with_times:
        from pitr.jobs.schedule.install import unit_folder  # noqa: PLC0415 - monitoring programs need no units
        from pitr.jobs.schedule.next_runs import next_runs as ask  # noqa: PLC0415

        next_runs = ask(unit_folder(None), [policy.name for policy in policies])
    return expected_runs(repository, policies, next_runs)


def _expected_sites(common: Common) -> list[ExpectedSite]:
    return [
        ExpectedSite(site.name, site.place, site.max_behind)
        for site in sites.configured_sites(common.settings)
    ]


def _printed(repository: Repository, found: Status, form: StatusFormat, *, to_file: bool) -> bytes | None:
    """Return the result in its form; None for text on standard output, whose form depends on the terminal."""
    if form is StatusFormat.JSON:
        return as_json(report.document(repository, found))
    if form is StatusFormat.NAGIOS:
        return f"{nagios.text(found)}\n".encode()
    if form is StatusFormat.OPENMETRICS:
        return _metrics(found)
    return as_text(*_table(found)) if to_file else None


def _table(found: Status) -> Iterator[RenderableType]:
    # The other forms do not need the tables, which take a while to load.
    from pitr.cli.display import status as display  # noqa: PLC0415

    return display.status(found)


def _metrics(found: Status | None) -> bytes:
    # The library needs longer to load than everything else.
    from pitr.jobs.status import openmetrics  # noqa: PLC0415

    return openmetrics.text(found).encode()
