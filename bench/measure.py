# SPDX-License-Identifier: GPL-2.0-or-later
"""Run programs in turn, take medians, and compare results with goals: shared by all benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30

# As pitr's own start does, also for the programs that a benchmark starts: pitr does not use the threads of numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a benchmark. `quick` gives an estimate only."""

    quick: bool
    disk_bytes: int
    runs: int


FULL = Size(quick=False, disk_bytes=4 * GIB, runs=5)
QUICK = Size(quick=True, disk_bytes=512 * MIB, runs=1)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: the values of pitr and of its peer. `goal` limits their ratio."""

    name: str
    pitr: float
    peer: float
    unit: str
    goal: float | None = None
    peer_name: str = ""
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.pitr / self.peer

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.ratio <= self.goal

    def document(self) -> dict[str, object]:
        return {**asdict(self), "ratio": round(self.ratio, 4), "reached": self.reached}


def in_turn(runs: int, programs: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run all `programs` `runs` times, in the order A B B A, and return the results of each.

    Programs that run one after the other meet the same load of the machine.
    """
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(runs):
        order = list(programs) if turn % 2 == 0 else list(programs)[::-1]
        for name in order:
            samples[name].append(programs[name]())
    return samples


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def compared(
    name: str,
    samples: dict[str, list[float]],
    pitr: str,
    peer: str,
    *,
    goal: float | None,
    unit: str = "s",
    note: str = "",
) -> Result:
    """Return the comparison of two samples by their medians."""
    return Result(
        name,
        median(samples[pitr]),
        median(samples[peer]),
        unit,
        goal,
        peer_name=peer,
        note=note,
        samples={pitr: samples[pitr], peer: samples[peer]},
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of `work` in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Ran:
    """The wall and CPU seconds of a child process, and its standard output."""

    wall_s: float
    cpu_s: float
    output: str


def run_python(script: Path, *arguments: object, environment: dict[str, str] | None = None) -> Ran:
    """Run a Python program in a process of its own and wait for it. Raises CalledProcessError."""
    return run([sys.executable, str(script), *(str(argument) for argument in arguments)], environment)


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Ran:
    """Run a program, wait for it, and measure it. Raises CalledProcessError with its output."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        printed = output.read().decode()
        if child.returncode:
            raise subprocess.CalledProcessError(
                child.returncode, command, printed, errors.read().decode()[-2000:]
            )
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, printed)


def running_cpu_s() -> float:
    """Return the CPU seconds that all running children of this process, and theirs, have used so far."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(place.name)] = int(fields[1])
        used[int(place.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while children := {child for child, parent in parents.items() if parent in family} - family:
        family |= children
    return sum(used.get(child, 0.0) for child in family - {os.getpid()})


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes.

    ru_maxrss of a child starts with the value of its parent, so it is of no use here.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def folder() -> Iterator[Path]:
    """Create a temporary folder in TMPDIR, with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pb-") as name:
        yield Path(name)


def table(results: Sequence[Result]) -> str:
    """Return the results as a table for people."""
    rows = [("what", "pitr", "peer", "", "ratio", "goal", "")]
    for result in results:
        goal = "" if result.goal is None else f"<= {result.goal:g}"
        verdict = {None: "", True: "reached", False: "MISSED"}[result.reached]
        rows.append(
            (
                result.name,
                f"{result.pitr:.3g} {result.unit}",
                f"{result.peer:.3g} {result.unit}",
                result.peer_name,
                f"{result.ratio:.2f}",
                goal,
                " ".join(part for part in (verdict, result.note) if part),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    )


def main(benchmark: Callable[[Size], list[Result]]) -> None:
    """Run one benchmark as a program with options such as `--quick` and `--json`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, one run")
    parser.add_argument("--runs", type=int, help="number of runs of each program")
    parser.add_argument("--gib", type=float, help="size of the disk")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    size = Size(
        size.quick,
        int(given.gib * GIB) // MIB * MIB if given.gib else size.disk_bytes,
        given.runs or size.runs,
    )
    results = benchmark(size)
    print(json.dumps([result.document() for result in results], indent=1) if given.json else table(results))
