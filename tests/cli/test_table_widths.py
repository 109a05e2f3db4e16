# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of points and of runs: at 80 columns the columns that matter stay; in a mail of cron nothing is lost."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from pitr.cli.display import tables
from pitr.cli.display.output import WIDTH_WITHOUT_TERMINAL
from pitr.errors import EngineError
from pitr.jobs.backup.many_vms import Chosen, Outcome
from pitr.jobs.facts import PointFacts
from pitr.model import Backup, VMName
from pitr.repository.drills import Proven
from tests.support.points import FIRST_POINT, VM, backup_of, fake_stream

LONG_NAME = "accounting-database-of-the-branch-office-2"
REASON = (
    "disk system: the download of disk 12345678-1234-1234-1234-123456789012 (transfer 12345678) did not start (it is "
    "cancelled_system); the host has probably lost the disk's bitmap; the engine reports: Image Download with disk "
    "system failed"
)
MATTER = ("Disks", "Changed", "Stored")


def point(name: str = LONG_NAME, reason: str | None = REASON) -> Backup:
    backup = backup_of([fake_stream(), fake_stream(1)], vm=VMName(VM.id, name), point=FIRST_POINT)
    return replace(backup, reason=reason)


def facts(backup: Backup) -> dict[str, PointFacts]:
    proven = Proven(FIRST_POINT + timedelta(hours=1), ok=False)
    return {backup.backup_id: PointFacts(proven=proven)}


def shown(table: RenderableType, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def outcomes() -> list[Outcome]:
    return [
        Outcome(Chosen(VM.id, LONG_NAME), point(), None, 12.5),
        Outcome(Chosen(VM.id, "db1"), None, EngineError(REASON), 0.5),
        Outcome(Chosen(VM.id, "web1"), point("web1", None), None, 0.5),
    ]


@pytest.mark.parametrize("proven", [False, True])
def test_80_columns_keep_disks_changed_and_stored_of_points(proven: bool) -> None:
    backup = point()
    header, _, row, *_ = lines = shown(tables.points([backup], facts(backup) if proven else None), 80)
    assert all(name in header for name in MATTER), lines
    assert all(cell_len(line) <= 80 for line in lines)
    assert row.split()[:3] == ["2020-06-29", "22:00:00", "CEST"] or row.split()[2].isalpha()
    assert backup.backup_id[:8] in row


def test_80_columns_keep_disks_changed_and_stored_of_a_run() -> None:
    lines = shown(tables.fleet(outcomes()), 80)
    assert all(name in lines[0] for name in MATTER), lines
    assert all(cell_len(line) <= 80 for line in lines)
    assert all(word in "\n".join(lines) for word in REASON.split())
    assert "No room for" not in "\n".join(lines) or "Took" in lines[-1]


@pytest.mark.parametrize("name", ["web1", LONG_NAME, "x" * 255])
def test_without_a_terminal_132_columns_hold_everything(name: str) -> None:
    backup = point(name)
    for table in (tables.points([backup], facts(backup)), tables.fleet([*outcomes(), *outcomes()])):
        lines = shown(table, WIDTH_WITHOUT_TERMINAL)
        assert all(cell_len(line) <= 132 for line in lines), lines
        text = "\n".join(lines)
        assert "…" not in text and "No room" not in text
        assert all(column in lines[0] for column in (*MATTER, "Took", "Id", "VM")), lines
        assert all(word in text for word in REASON.split())
    text = "".join(shown(tables.points([backup], facts(backup)), WIDTH_WITHOUT_TERMINAL))
    assert text.count("x") >= 255 if name[0] == "x" else name in text
    assert "FAILED 2020-06-29" in text


def test_a_reason_stands_below_its_own_row() -> None:
    first, second = point("web1"), point("web2", "requested")
    lines = shown(tables.points([first, second]), WIDTH_WITHOUT_TERMINAL)
    rows = [number for number, line in enumerate(lines) if " web" in line]
    assert lines[rows[0] + 1].strip().startswith("Why whole: disk system")
    assert lines[rows[1] + 1].strip() == "Why whole: requested"
