# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables on narrow terminals: a row is a line, and what one types off it is whole."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from pitr.cli.display import tables
from pitr.cli.display.table import FittingTable
from pitr.errors import EngineError
from pitr.jobs.backup.many_vms import Chosen, Outcome
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository
from pitr.repository.drills import DiskFindings, Drill, Finding, add
from tests.support.pitr import Pitr
from tests.support.points import FIRST_POINT, VM, Writer, backup_of, disk_id, fake_stream

WIDTHS = (80, 60)
LONG_NAME = "accounting-database-of-the-branch-office-2"
REASON = "the engine has no checkpoint that is in the repository any more"


@pytest.fixture
def points(repository: Repository) -> list[Backup]:
    """A chain of a VM with a long name, told why it is full, rehearsed; and a point of a short one."""
    made: list[Backup] = []
    for number in range(12):
        parent = made[-1] if made else None
        stream = fake_stream(parent=parent.streams[0].stream_id if parent else None, name=f"{LONG_NAME}-disk")
        backup = replace(
            backup_of(
                [stream, fake_stream(1, name="data")],
                vm=VMName(VM.id, LONG_NAME),
                point=FIRST_POINT + timedelta(hours=number),
                parent_id=parent.backup_id if parent else None,
            ),
            reason=None if parent else REASON,
        )
        repository.commit(Record(backup, None))
        made.append(backup)
    return made


def _rows(text: str, points: list[Backup]) -> list[str]:
    """The lines that begin with the time of a point, as it has to be typed."""
    starts = [f"{backup.point:%Y-%m-%d %H:%M:%S} UTC" for backup in points]
    return [line for line in text.splitlines() if line.strip().startswith(tuple(starts))]


@pytest.mark.parametrize("width", WIDTHS)
def test_each_point_is_a_line(command: Pitr, points: list[Backup], width: int) -> None:
    shown = command.with_environment(COLUMNS=str(width))("list").stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    rows = _rows(shown, points)
    assert len(rows) == len(points)
    for row, backup in zip(rows, reversed(points), strict=True):
        assert backup.backup_id[:8] in row.split()
        assert backup.kind.value in row or width < 80
        assert LONG_NAME[:11] in row and "…" in row
    # Header, rule, rows, what is left out: nothing else.
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) <= 2 + len(points) + 2
    assert "No room for" in shown and "--output json" in shown and "Took" in shown[shown.index("No room") :]


@pytest.mark.parametrize("width", WIDTHS)
def test_rehearsed_points_keep_their_line_too(
    repository: Repository, command: Pitr, points: list[Backup], width: int
) -> None:
    for number, ok in enumerate((True, False)):
        disk = DiskFindings(disk_id(0), "data", (Finding("digests", ok, "read"),))
        found = Drill(points[number].backup_id, VM.id, FIRST_POINT, True, 1, (disk,))
        add(repository.store, found)
    shown = command.with_environment(COLUMNS=str(width))("list").stdout
    rows = _rows(shown, points)
    assert len(rows) == len(points) and all(cell_len(line) <= width for line in shown.splitlines())
    if width == 80:
        assert "2020-06-29" in rows[-1].split(points[0].backup_id[:8])[1]
        assert "FAILED" in rows[-2]


@pytest.mark.parametrize("width", WIDTHS)
def test_one_point_and_a_long_chain(command: Pitr, points: list[Backup], width: int) -> None:
    shown = command.with_environment(COLUMNS=str(width))("show", points[-1].backup_id).stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    chain = _rows(shown[shown.index("Chain") :], points)
    assert len(chain) == len(points)
    assert [row.split()[-1] for row in chain] == [backup.backup_id[:8] for backup in points]
    # A disk's id is what --disk takes.
    assert disk_id(0) in shown and disk_id(1) in shown


def test_wide_terminals_and_pipes_get_everything(command: Pitr, points: list[Backup]) -> None:
    wide = command.with_environment(COLUMNS="300")("list").stdout
    piped = command.with_environment(COLUMNS="")
    for shown in (wide, piped("list").stdout):
        rows = _rows(shown, points)
        assert len(rows) == len(points) and all(LONG_NAME in row for row in rows)
        assert REASON in shown and "…" not in shown and "No room" not in shown
        assert REASON in rows[-1] or all(cell_len(line) <= 132 for line in shown.splitlines())
    chain = _rows(piped("show", points[-1].backup_id).stdout, points)
    assert all(backup.backup_id in row for row, backup in zip(chain, points, strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_differences_and_ranges(repository: Repository, command: Pitr, width: int) -> None:
    writer = Writer(repository)
    first = writer.add("1m:A 1m:0 6m:A", "64k:A")
    second = writer.add("512k:B 512k:- 1m:C 6m:-", "64k:B")
    narrow = command.with_environment(COLUMNS=str(width))
    pair = ("--point", first.backup_id, "--point", second.backup_id)
    shown = narrow("diff", *pair, "--extents").stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    figures = [line for line in shown.splitlines() if line.strip().startswith(("disk0 ", "disk1 "))]
    assert len(figures) == 2 + 3  # figures, then ranges
    assert "1.5 MiB" in figures[0] and first.backup_id in shown and second.backup_id in shown
    ranges = narrow("extents", second.backup_id, "--disk", "disk0").stdout
    lines = [line.split() for line in ranges.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert [line[0] for line in lines] == ["0", "524288", "1048576", "2097152"]
    assert all(len(line[-1]) >= 13 for line in lines)
    for line, backup in zip(lines, (second, first, second, first), strict=True):
        assert backup.backup_id.startswith(line[-1])


@pytest.mark.parametrize("width", WIDTHS)
def test_damage_is_whole(repository: Repository, command: Pitr, points: list[Backup], width: int) -> None:
    # No blob and no index is there.
    shown = command.with_environment(COLUMNS=str(width))("verify", "--quick", code=3).stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    assert sum(line.split()[:1] == ["missing"] for line in shown.splitlines()) >= len(points)
    assert all(backup.backup_id[:8] in shown for backup in points)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_became_of_several_vms(points: list[Backup], width: int) -> None:
    message = "the engine is unreachable: connection refused by engine.example.com, port 443"
    outcomes = [
        Outcome(Chosen(VM.id, LONG_NAME), points[0], None, 12.5),
        Outcome(Chosen(VM.id, "db1"), points[1], None, 12.5),
        Outcome(Chosen(VM.id, "web1"), None, EngineError(message), 0.5),
    ]
    text = _on_a_console(tables.fleet(outcomes), width)
    rows = [line for line in text.splitlines() if line.split()[:1] and line.split()[0] in ("db1", "web1")]
    assert len(rows) == 2 and "incremental" in rows[0] and "FAILED" in rows[1]
    assert f"{points[1].point:%Y-%m-%d %H:%M:%S}" in rows[0] or width < 80
    # It is folded between words, and all of it is there.
    assert all(word in text for word in message.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_queries_of_many_columns_stand_upright(command: Pitr, points: list[Backup], width: int) -> None:
    narrow = command.with_environment(COLUMNS=str(width))
    shown = narrow("catalog", "query", "SELECT * FROM stream").stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    ids = [line.split()[1] for line in shown.splitlines() if line.split()[:1] == ["stream_id"]]
    assert sorted(ids) == sorted(stream.stream_id for backup in points for stream in backup.streams)
    few = narrow("catalog", "query", "SELECT stream_id, size FROM stream").stdout
    assert sum(len(line.split()) == 2 and line.split()[1] == "1048576" for line in few.splitlines()) == len(
        ids
    )


def test_a_real_terminal_of_80_columns(repository: Repository, points: list[Backup]) -> None:
    with _terminal(80) as (terminal, screen):
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        environment |= {"PITR_REPO": str(repository.path), "TZ": "UTC", "TERM": "xterm"}
        arguments = [sys.executable, "-m", "pitr", "list"]
        with subprocess.Popen(
            arguments, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
        ) as process:
            os.close(terminal)
            shown = b""
            while part := _read(screen):
                shown += part
        assert process.returncode == 0, shown
    lines = [_without_colours(line) for line in shown.decode().splitlines()]
    assert all(cell_len(line) <= 80 for line in lines), lines
    rows = _rows("\n".join(lines), points)
    assert [row.split()[-1] for row in rows[:-1]] == [backup.backup_id[:8] for backup in reversed(points[1:])]


def test_names_of_wide_letters_are_cut_by_cells() -> None:
    table = FittingTable(("VM", "Time"), [("会計" * 20, "x" * 20)], least={"VM": ("cut", 10)})
    lines = _on_a_console(table, 40).splitlines()
    (row,) = [line for line in lines if "x" in line]
    assert "x" * 20 in row and "…" in row


def test_nothing_is_lost_where_nothing_fits() -> None:
    table = FittingTable(
        ("Id", "Target", "Took"),
        [("7" * 36, "8" * 90, "1 s")],
        drop=("Took",),
        least={"Target": ("fold", 30)},
    )
    text = _on_a_console(table, 30)
    assert text.count("7") == 36 and text.count("8") == 90


def _on_a_console(shown: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert all(cell_len(line) <= width for line in text.splitlines()), text
    return text


@contextmanager
def _terminal(columns: int) -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: what the program gets, and what a person sees."""
    screen, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        yield terminal, screen
    finally:
        os.close(screen)


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 1 << 16)
    except OSError:
        # Linux says so when the program's side is closed.
        return b""


def _without_colours(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\r")
