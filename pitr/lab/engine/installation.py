# SPDX-License-Identifier: GPL-2.0-or-later
"""The shared objects of the simulated engine: its state, host, clock and threads."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from pitr.lab.engine.clock import Clock
from pitr.lab.engine.faults import Faults
from pitr.lab.engine.state import State
from pitr.lab.engine.workers import EngineThreads
from pitr.lab.host.host import Host

HOLD_POLL_S = 0.005
_LAG_POLL_S = 0.1


@dataclass(slots=True)
class Installation:
    """One installed oVirt.

    Take `host_lock` around work on the host's volumes and VMs (tickets need none), never while holding the
    state's lock: work on the host is slow, and answers to polling clients must not wait for it.
    """

    host: Host
    clock: Clock
    faults: Faults
    phase_lag_s: float
    state: State = field(default_factory=State)
    workers: EngineThreads = field(default_factory=EngineThreads)
    host_lock: threading.RLock = field(default_factory=threading.RLock)
    phases_held: bool = False

    def lag(self) -> None:
        """Wait as long as the engine needs to notice a change, and while a test holds the phases.

        A lag that is shortened meanwhile counts at once.
        """
        started_at = time.monotonic()
        while True:
            left = started_at + self.phase_lag_s - time.monotonic()
            if left > 0:
                self.workers.sleep(min(left, _LAG_POLL_S))
            elif self.phases_held:
                self.workers.sleep(HOLD_POLL_S)
            else:
                return
