# SPDX-License-Identifier: GPL-2.0-or-later
"""Read-ahead proposes what a sequential reader needs next, and knows what it has proposed."""

from __future__ import annotations

from pitr.system.read_ahead import ReadAhead

MIB = 1 << 20


def test_a_sequential_reader_gets_ranges_without_gaps() -> None:
    ahead = ReadAhead(8 * MIB)
    end = proposed = 0
    for offset in range(0, 64 * MIB, MIB // 4):
        given = ahead.after(offset, MIB // 4)
        if given is None:
            continue
        start, length = given
        assert start in (proposed, offset + MIB // 4) and start + length <= offset + 9 * MIB
        proposed, end = start + length, offset
    assert end > 54 * MIB and proposed > 60 * MIB
    assert ahead.covers(proposed - MIB, MIB) and ahead.covers(32 * MIB, MIB)
    assert not ahead.covers(proposed - MIB, MIB + 1) and not ahead.covers(0, MIB)


def test_random_reads_are_never_covered() -> None:
    ahead = ReadAhead(8 * MIB)
    for offset in (5 * MIB, 90 * MIB, 5 * MIB, 40 * MIB):
        assert ahead.after(offset, 4096) is None
        assert not ahead.covers(offset, 4096) and not ahead.covers(offset + 4096, 4096)
