# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of commands that must not disturb others: how fast they move data, and how long they wait for a lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import typer

from pitr import times
from pitr.system import rate_limit
from pitr.units import parse_rate

LimitRateOption = Annotated[
    str | None,
    typer.Option(
        "--limit-rate",
        metavar="RATE",
        help="Move at most this much disk data a second, for all disks together: 5M, 1G.",
    ),
]


WaitLockOption = Annotated[
    str | None,
    typer.Option(
        "--wait-lock",
        metavar="TIME",
        help="Wait this long for another pitr that works on the VM: 30s, 10m. Default: exit with 5 at once.",
    ),
]


def options_of(*, moves_data: bool, locks: bool) -> dict[str, Any]:
    """Return the options of a command by their parameters: of one that moves data, or only locks VMs."""
    return {
        **({"limit_rate": LimitRateOption} if moves_data else {}),
        **({"wait_lock": WaitLockOption} if moves_data or locks else {}),
    }


@contextmanager
def minding(limit_rate: str | None = None, wait_lock: str | None = None) -> Iterator[None]:
    """Mind the options while the block runs. Raises UsageError."""
    rate = parse_rate(limit_rate)
    with ExitStack() as stack:
        stack.enter_context(rate_limit.limited(rate))
        if wait_lock is not None:
            from pitr.repository import lock  # noqa: PLC0415 - `pitr --help` must start quickly

            stack.enter_context(lock.waiting(times.parse_wait("--wait-lock", wait_lock)))
        yield
