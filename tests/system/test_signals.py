# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits that a signal ends."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import ExitStack

from pitr.system.signals import Signals


def test_waiting_for_a_signal_works_with_more_open_files_than_select_supports() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.wait(10) == signal.SIGTERM
            assert signals.wait(0) is None
            signals.wake()
            assert signals.wait(10) is None
