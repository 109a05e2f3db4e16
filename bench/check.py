# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare what pitr does with the numbers in bench/expected.json: counts that don't depend on the machine.

`make bench-check` prints a table and fails if a count is more than 3 % over its number (the peak of memory: 20 %).
After a change that is meant to count more, or that counts less, `make bench-check UPDATE=1` writes the new numbers.

Each piece of work runs twice in a process of its own, with one worker. The second run is counted: all modules are
imported then, and no thread is faster than another one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import counters
import measure
from counted_work import BENCHMARKS, Place, prepare

EXPECTED = Path(__file__).with_name("expected.json")
TOLERANCE = 0.03
#: The peak of several threads depends on their order.
TOLERANCES = {"peak bytes": 0.2}
#: What the kernel counts also has the length of a process id, and a call that was interrupted. A new installation takes
#: a few calls of Python more.
SLACKS = {"Python calls": 20, "read calls": 2, "write calls": 2, "bytes written": 64}
#: They follow from the versions of Python and SQLite: with other versions they are shown, but not compared.
_OF_VERSIONS = {"Python calls", "SQLite steps", "read calls", "modules", "peak bytes"}


def counted(name: str, folder: Path) -> dict[str, int]:
    """Run one benchmark twice in this process, and return the counts of the second time."""
    counters.install()
    from pitr.system import malloc

    malloc.recycle()
    counters.count_http()
    counters.count_store()
    for run in range(2):
        ready = BENCHMARKS[name](Place(folder, run))
        work = next(ready)
        with counters.counting() as found:
            work()
        for _ in ready:
            raise RuntimeError(f"{name} yields twice")
    return {what: number for what, number in sorted(found.items()) if number}


def all_counted(folder: Path) -> dict[str, dict[str, int]]:
    """Run all benchmarks, each in a process of its own, two at a time."""
    _child("--prepare", folder)
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda name: json.loads(_child("--run", name, folder)), BENCHMARKS)
        return dict(zip(BENCHMARKS, made, strict=True))


def _child(*arguments: object) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PITR_")},
        "PYTHONHASHSEED": "0",
        "XDG_STATE_HOME": str(arguments[-1]) + "/state",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"bench-check: {arguments[:-1]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def versions() -> dict[str, str]:
    """Return the versions that some counts follow from."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "sqlite": sqlite3.sqlite_version,
    }


@dataclass(frozen=True, slots=True)
class Compared:
    """One count of one benchmark, and the number that it is compared with; None if there is none."""

    benchmark: str
    what: str
    number: int
    expected: int | None
    compared: bool

    @property
    def verdict(self) -> str:
        """Return "over", "under" or "same", "new" without a number, or "not compared"."""
        if not self.compared:
            return "not compared"
        if self.expected is None:
            return "new"
        more = self.number - self.expected
        allowed = self.expected * TOLERANCES.get(self.what, TOLERANCE) + SLACKS.get(self.what, 0)
        if abs(more) <= allowed:
            return "same"
        return "over" if more > 0 else "under"


def compare(
    found: Mapping[str, Mapping[str, int]],
    expected: Mapping[str, Mapping[str, int]],
    *,
    same_versions: bool,
    kernel_counts: bool,
) -> list[Compared]:
    """Compare all counts with their numbers. A count that is in one of both only is 0 in the other one."""
    rows = []
    for benchmark in BENCHMARKS:
        known = expected.get(benchmark, {})
        for what in sorted({*found.get(benchmark, {}), *known}):
            usable = same_versions or what not in _OF_VERSIONS
            usable &= kernel_counts or what not in counters.IO_NAMES
            number = known.get(what, 0) if benchmark in expected else None
            rows.append(Compared(benchmark, what, found.get(benchmark, {}).get(what, 0), number, usable))
    return rows


def table(rows: list[Compared]) -> str:
    """Return the counts as a table for people."""
    lines = [f"{'benchmark':<20} {'what':<20} {'count':>13} {'expected':>13} {'':>8}"]
    shown = ""
    for row in rows:
        expected = "" if row.expected is None else f"{row.expected:,}"
        change = f"{row.number / row.expected - 1:+.1%}" if row.expected else ""
        verdict = {"same": "", "over": "OVER", "under": "less"}.get(row.verdict, row.verdict)
        name = row.benchmark if row.benchmark != shown else ""
        shown = row.benchmark
        lines.append(
            f"{name:<20} {row.what:<20} {row.number:>13,} {expected:>13} {change:>8} {verdict}".rstrip()
        )
    return "\n".join(lines)


def counted_rows(rows: list[Compared]) -> str:
    """Return "1 count is" or "2 counts are"."""
    return "1 count is" if len(rows) == 1 else f"{len(rows)} counts are"


def check(
    found: Mapping[str, Mapping[str, int]], document: Mapping[str, object]
) -> tuple[list[Compared], list[str]]:
    """Compare with what expected.json holds. Return all rows, and what to say about them, worst first."""
    rows = compare(
        found,
        document.get("counts", {}),  # type: ignore[arg-type]
        same_versions=document.get("versions") == versions(),
        kernel_counts=bool(counters.io_counts()),
    )
    said = []
    over = [row for row in rows if row.verdict in {"over", "new"}]
    if over:
        said.append(
            f"{counted_rows(over)} more than {TOLERANCE:.0%} over the expected number. Find out why. If the change is "
            "worth it, run 'make bench-check UPDATE=1' and commit bench/expected.json."
        )
    under = [row for row in rows if row.verdict == "under"]
    if under:
        said.append(
            f"{counted_rows(under)} more than {TOLERANCE:.0%} under the expected number. Run "
            "'make bench-check UPDATE=1' and commit bench/expected.json, so that it stays so."
        )
    if document.get("versions") != versions():
        said.append(
            f"The numbers are of {document.get('versions')}, and this is {versions()}: some counts are not compared."
        )
    return rows, said


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the counts to bench/expected.json")
    parser.add_argument("--prepare", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare is not None:
        prepare(given.prepare)
        return 0
    if given.run is not None:
        print(json.dumps(counted(given.run[0], Path(given.run[1]))))
        return 0
    with measure.folder() as folder:
        found = all_counted(folder)
    document = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    rows, said = check(found, document)
    print(table(rows))
    if given.update:
        EXPECTED.write_text(json.dumps({"versions": versions(), "counts": found}, indent=1) + "\n")
        print(f"\nwrote {EXPECTED}")
        return 0
    print(
        "\n"
        + "\n".join(said or [f"All {len(rows)} counts are within {TOLERANCE:.0%} of the expected numbers."])
    )
    return int(any(row.verdict in {"over", "new"} for row in rows))


if __name__ == "__main__":
    sys.exit(main())
