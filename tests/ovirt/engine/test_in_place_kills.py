# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that change a disk in place, killed at random moments: the disk stays, and the next run ends the work."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pitr.endpoints.images.memory import MemorySource
from pitr.extents import ExtentMap
from pitr.lab import Lab
from pitr.lab.lab import LabDisk
from pitr.ovirt.differences import send_difference
from pitr.ovirt.engine import Engine, load_config, open_uploads, start_in_place
from tests.support.sdk_client import content_of

KILLS = int(os.environ.get("PITR_KILLS", "2"))
KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB
#: Every second block differs: data and zeroes by turns.
RANGES = [(start, 64 * KIB, start % (256 * KIB) != 0) for start in range(0, SIZE, 128 * KIB)]
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


def _work(environment: Mapping[str, str], disk_id: str, seed: int) -> None:
    """Go on with the upload that a killed process left, or start one."""
    source = MemorySource(random.Random(seed).randbytes(SIZE), ExtentMap.of(RANGES))
    with Engine(load_config(environ=environment), poll_interval_s=0.02) as engine:
        left = next(iter(open_uploads(engine, disk_id)), None)
        with start_in_place(engine, disk_id, left=None if left is None else left.id) as upload:
            send_difference(engine, source, upload, part_bytes=512 * KIB)


def _expected(seed: int) -> bytes:
    content, expected = random.Random(seed).randbytes(SIZE), bytearray(b"o" * SIZE)
    for start, length, zero in RANGES:
        expected[start : start + length] = bytes(length) if zero else content[start : start + length]
    return bytes(expected)


def _killed(lab: Lab, disk: LabDisk, seed: int, signum: int, after_s: float | None) -> bool:
    """Run a process for `after_s` seconds, or to its end, and return whether it has done its work."""
    process = _PROCESSES.Process(target=_work, args=(lab.environment(), disk.id, seed))
    process.start()
    process.join(after_s)
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signum)
    process.join()
    code = process.exitcode
    process.close()
    # Python ends with 1 on Ctrl-C.
    assert code in ((0, 1) if signum == signal.SIGINT else (0, -signum))
    return code == 0


def test_the_disk_survives_kills_and_the_next_run_ends_the_work(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"o" * SIZE)
    disk = lab.add_vm("inplace").add_disk("system", SIZE, content=old)
    assert _killed(lab, disk, 0, signal.SIGKILL, None)
    began = time.monotonic()
    assert _killed(lab, disk, 0, signal.SIGKILL, None)
    longest_s = 1.2 * (time.monotonic() - began)
    assert content_of(disk, tmp_path) == _expected(0)
    chance, seed, stopped = random.Random(), 1, 0
    for number in range(KILLS):
        signum = signal.SIGINT if number % 4 == 3 else signal.SIGKILL
        done = _killed(lab, disk, seed, signum, chance.uniform(0, longest_s))
        stopped += not done
        # It holds one of the two states, or the engine keeps it locked.
        if disk.status == "ok":
            assert content_of(disk, tmp_path) in (_expected(seed - 1), _expected(seed))
        if number % 4 == 3 or number == KILLS - 1:
            done = done or _killed(lab, disk, seed, signal.SIGKILL, None)
            assert done and disk.status == "ok" and disk.legal
        if done:
            assert content_of(disk, tmp_path) == _expected(seed)
            seed += 1
    record_property("in-place uploads stopped", f"{stopped} of {KILLS}")
    assert stopped >= KILLS // 8
