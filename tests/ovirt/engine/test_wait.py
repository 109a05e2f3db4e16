# SPDX-License-Identifier: GPL-2.0-or-later
"""How long and how often pitr polls the engine for a state."""

from __future__ import annotations

import itertools
import time

import pytest

from pitr.ovirt.engine import wait


class _Clock:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.mark.parametrize("reached_s", [0.0, 0.07, 0.3, 1.0, 2.1, 6.5, 29.0])
def test_a_state_is_seen_at_most_a_quarter_late(monkeypatch: pytest.MonkeyPatch, reached_s: float) -> None:
    clock = _Clock(monkeypatch)
    asked = 0
    for _ in wait.pauses(100, 2.0):
        asked += 1
        if clock.now_s - 1000 >= reached_s:
            break
    late_s = clock.now_s - 1000 - reached_s
    assert late_s <= min(2.0, max(0.051, reached_s / 4))
    assert asked <= 40


def test_pauses_have_a_limit_and_the_last_time_is_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    times = []
    lasts = []
    for last in wait.pauses(60.5, 2.0):
        times.append(clock.now_s)
        lasts.append(last)
    assert times[-1] == pytest.approx(1060.5)
    assert lasts == [False] * (len(lasts) - 1) + [True]
    assert max(after - before for before, after in itertools.pairwise(times)) == pytest.approx(2.0)
