# SPDX-License-Identifier: GPL-2.0-or-later
"""Delete an entity that the engine removes slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pitr.errors import EngineError
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.wait import pauses


def delete_until_gone(
    engine: Engine, what: str, remove: Callable[[Any], object], exists: Callable[[], bool], timeout_s: float
) -> None:
    """Call `remove` with the system service until the engine no longer has `what`; it need not exist.

    Waits while it is locked. Raises EngineBusy when it stays locked, EngineError.
    """
    last: EngineFault | None = None
    for _ in pauses(timeout_s, engine.poll_interval_s):
        try:
            engine.call(f"deleting {what}", remove)
        except EngineFault as fault:
            if fault.missing:
                return
            if not fault.busy:
                raise
            last = fault
            continue
        last = None
        if not exists():
            return
    if last is not None:
        raise faults.as_busy(last)
    raise EngineError(f"the engine still has {what}, {timeout_s:.0f} s after it was deleted")
