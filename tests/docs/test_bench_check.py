# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench-check` fails for a count over its number, and asks to keep a lower one."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
_OWN = {"check", "counted_work", "counters", "measure"}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Return the program; its numbers are in a file of the test, and the machine does the work "full backup"."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("check")
    monkeypatch.setattr(module, "EXPECTED", tmp_path / "expected.json")
    monkeypatch.setattr(module, "BENCHMARKS", {"full backup": None})
    monkeypatch.setattr(sys, "argv", ["check.py"])
    yield module
    for name in _OWN & sys.modules.keys():
        del sys.modules[name]


def _run(check: Any, monkeypatch: pytest.MonkeyPatch, expected: dict[str, int], found: dict[str, int]) -> int:
    document = {"versions": check.versions(), "counts": {"full backup": expected}}
    check.EXPECTED.write_text(json.dumps(document))
    monkeypatch.setattr(check, "all_counted", lambda folder: {"full backup": found})
    code: int = check.main()
    return code


@pytest.mark.parametrize(
    ("what", "expected", "found", "code", "said"),
    [
        ("HTTP requests", 100, 100, 0, "All 1 counts are within 3%"),
        ("HTTP requests", 100, 103, 0, "All 1 counts are within 3%"),
        ("HTTP requests", 100, 104, 1, "1 count is more than 3% over"),
        ("HTTP requests", 100, 97, 0, "All 1 counts are within 3%"),
        ("HTTP requests", 100, 96, 0, "1 count is more than 3% under"),
        ("HTTP requests", 10, 0, 0, "1 count is more than 3% under"),
        ("peak bytes", 100, 119, 0, "All 1 counts are within 3%"),
        ("peak bytes", 100, 121, 1, "1 count is more than 3% over"),
    ],
)
def test_more_than_three_percent_over_the_number_fails(
    check: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    expected: int,
    found: int,
    code: int,
    said: str,
) -> None:
    assert _run(check, monkeypatch, {what: expected}, {what: found} if found else {}) == code
    assert said in capsys.readouterr().out


def test_a_count_without_a_number_fails(
    check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(check, monkeypatch, {"syncs": 3}, {"syncs": 3, "HTTP requests": 1}) == 1
    assert "make bench-check UPDATE=1" in capsys.readouterr().out


def test_an_update_writes_the_numbers_that_the_next_run_compares(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "all_counted", lambda folder: {"full backup": {"syncs": 5}})
    assert check.main() == 1
    monkeypatch.setattr(sys, "argv", ["check.py", "--update"])
    assert check.main() == 0
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 0


def test_counts_that_follow_from_versions_are_compared_only_for_the_same_ones(
    check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(check, monkeypatch, {"Python calls": 100, "syncs": 3}, {"Python calls": 200, "syncs": 3}) == 1
    monkeypatch.setattr(check, "versions", lambda: {"python": "3.99", "sqlite": "4.0"})
    document = json.loads(check.EXPECTED.read_text())
    document["versions"] = {"python": "3.11", "sqlite": "3.40.1"}
    check.EXPECTED.write_text(json.dumps(document))
    assert check.main() == 0
    assert "some counts are not compared" in capsys.readouterr().out


def test_the_kept_numbers_have_all_pieces_of_work() -> None:
    kept = json.loads((BENCH / "expected.json").read_text())
    assert kept["versions"].keys() == {"python", "sqlite"}
    assert {"full backup", "incremental backup", "compared backup", "quick verify", "bucket"} <= kept[
        "counts"
    ].keys()
    for counts in kept["counts"].values():
        assert counts["Python calls"] > 0
