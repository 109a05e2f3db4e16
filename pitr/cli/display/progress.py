# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on standard error: a bar on a terminal, and a line of JSON each second with `--output json`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import orjson

from pitr.cli.display.output import Printer
from pitr.reporting import Progress

_JSON_PAUSE_S = 1.0


@contextmanager
def showing(output: Printer, what: str) -> Iterator[Progress | None]:
    """Show the progress of `what` while the block runs. The block calls the value with (bytes done, bytes in all)."""
    if output.quiet:
        yield None
    elif output.json:
        yield _json_progress(what)
    elif sys.stderr.isatty():
        with _bar(what) as progress:
            yield progress
    else:
        yield None


@contextmanager
def showing_each(
    output: Printer, what: str, names: Sequence[str]
) -> Iterator[Callable[[str], Progress | None]]:
    """Show the progress of `what` for several VMs at once. The block gets a function: VM name to progress callback.

    With JSON each VM has its own lines; on a terminal they share one bar.
    """
    if output.quiet:
        yield lambda name: None
    elif output.json:
        yield lambda name: _json_progress(f"{what} {name}")
    elif sys.stderr.isatty():
        with _bar(f"{what} {names[0] if len(names) == 1 else f'{len(names)} VMs'}") as progress:
            yield _Sum(progress).part
    else:
        yield lambda name: None


class _Sum:
    """Add up the progress of several VMs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._parts: dict[str, tuple[int, int]] = {}

    def part(self, name: str) -> Progress:
        """Return the progress callback for the VM `name`."""

        def progress(done: int, total: int) -> None:
            with self._lock:
                self._parts[name] = (done, total)
                done, total = (sum(column) for column in zip(*self._parts.values(), strict=True))
                self._progress(done, total)

        return progress


def _json_progress(what: str) -> Progress:
    started = time.monotonic()
    last = started - _JSON_PAUSE_S

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _JSON_PAUSE_S and done < total:
            return
        last = now
        line = {
            "progress": {
                "what": what,
                "phase": _phase(done, total),
                "done": done,
                "total": total,
                "elapsed_s": round(now - started, 3),
            }
        }
        sys.stderr.buffer.write(orjson.dumps(line) + b"\n")
        sys.stderr.flush()

    return progress


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    # Only a terminal needs it, and most long runs have none.
    from rich import progress as shown  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        shown.TextColumn("{task.description}", markup=False),
        shown.BarColumn(),
        shown.DownloadColumn(binary_units=True),
        shown.TransferSpeedColumn(),
        shown.TimeRemainingColumn(),
    )
    with shown.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{what}: starting", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{what}: {_phase(done, total)}")

        yield progress


def _phase(done: int, total: int) -> str:
    """Return what happens now. After the last byte, the engine, a flush or a check can still take minutes."""
    return "copying" if done < total else "finishing"
