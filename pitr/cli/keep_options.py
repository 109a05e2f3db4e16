# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that say which points to keep."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.options import Common
from pitr.jobs.upkeep.retention import Retention

KeepLastOption = Annotated[
    int | None, typer.Option("--keep-last", min=1, metavar="N", help="Keep the N newest points.")
]
KeepHourlyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-hourly", min=1, metavar="N", help="Keep the newest point of each of the last N hours."
    ),
]
KeepDailyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-daily", min=1, metavar="N", help="Keep the newest point of each of the last N days."
    ),
]
KeepWeeklyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-weekly", min=1, metavar="N", help="Keep the newest point of each of the last N weeks."
    ),
]
KeepMonthlyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-monthly", min=1, metavar="N", help="Keep the newest point of each of the last N months."
    ),
]
KeepYearlyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-yearly", min=1, metavar="N", help="Keep the newest point of each of the last N years."
    ),
]
KeepWithinOption = Annotated[
    str | None,
    typer.Option(
        "--keep-within",
        metavar="SPAN",
        help="Keep all points in this time before the newest point: 36h, 30d, 8w, 6m or 1y.",
    ),
]


def rules(common: Common, **given: int | str | None) -> Retention:
    """Return the rules of the command line, by the names of `Retention.of`; without any, those of the configuration.

    A mix of both would keep too much. Raises UsageError.
    """
    typed = Retention.of(given)
    return Retention.of(common.settings.retention) if typed.is_empty else typed
