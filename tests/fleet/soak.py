# SPDX-License-Identifier: GPL-2.0-or-later
"""Kill workers, their children, the scheduler and the caller at random: `python -m tests.fleet.soak --kills 100`.

After each kill, each VM has one new point that holds what its disk held, and nothing is open on the engine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from pitr.lab import Lab, LabVM
from tests.support.fleet import Program, TestFleet, fleet_of
from tests.support.lab import MiB, assert_same, make_vm, nothing_open, scribble
from tests.support.lab_host import children_of
from tests.support.pitr import Pitr, ended, wait_until

_SIZE = 4 * MiB
#: A backup of the fleet takes about so long.
_LONGEST_S = 6.0


class Soak:
    def __init__(self, lab: Lab, pitr: Pitr, fleet: TestFleet, chance: random.Random, folder: Path) -> None:
        self.lab = lab
        self.pitr = pitr
        self.fleet = fleet
        self.chance = chance
        self.folder = folder
        self.vms = [make_vm(lab, _SIZE) for _ in range(3)]
        self.scheduler = fleet.scheduler()
        self.workers = [self._worker(), self._worker()]
        self.counts: Counter[str] = Counter()

    def _worker(self) -> Program:
        return self.fleet.worker("--slots", "2")

    def kill_once(self) -> None:
        for vm in self.vms:
            with vm.disks[0].guest() as guest:
                scribble(guest, self.chance, _SIZE, writes=6)
        before = self._points()
        victim = self.chance.choice(("worker", "worker", "worker", "child", "scheduler", "caller"))
        names = [vm.name for vm in self.vms]
        with self.pitr.process("backup", *names, "--scheduler", self.fleet.address, "-o", "json") as process:
            time.sleep(self.chance.uniform(0.5, _LONGEST_S))
            was_running = process.poll() is None
            self._kill(victim, process)
            done = ended(process)
        self.counts[f"{victim}{'' if was_running else ' after the end'}"] += 1
        self._repair()
        # Workers whose scheduler or caller is gone end their tasks in order, in a moment.
        wait_until(lambda: nothing_open(self.lab), "nothing open on the engine")
        after = self._points()
        if victim == "caller" and was_running:
            assert done.code == -signal.SIGKILL, done
            assert all(after[name] - before[name] in (0, 1) for name in names), (before, after)
            self.pitr("backup", *names, "--scheduler", self.fleet.address)
            wait_until(lambda: nothing_open(self.lab), "nothing open on the engine")
        elif victim == "scheduler" and "does not answer" in done.stderr and done.code == 1:
            # It was gone before the caller had connected: nothing was begun.
            assert after == before
            return
        else:
            assert done.code == 0, done
            assert sorted(point["vm"]["name"] for point in done.json["backups"]) == sorted(names), done
            assert all(after[name] == before[name] + 1 for name in names), (
                victim,
                before,
                after,
                done.stderr,
            )
        for vm in self.vms:
            self._check_newest(vm)

    def _kill(self, victim: str, process: Any) -> None:
        if victim == "caller":
            process.kill()
        elif victim == "scheduler":
            self.scheduler.kill()
        else:
            worker = self.chance.choice(self.workers)
            if victim == "worker":
                worker.kill()
                return
            children = [
                child for template in children_of(worker.process.pid) for child in children_of(template)
            ]
            if children:
                with suppress(ProcessLookupError):
                    os.kill(self.chance.choice(children), signal.SIGKILL)

    def _repair(self) -> None:
        if self.scheduler.process.poll() is not None:
            registered = [worker.said.count("working for") for worker in self.workers]
            self.scheduler = self.fleet.scheduler()
            for worker, count in zip(self.workers, registered, strict=True):
                if worker.process.poll() is None:
                    worker.wait_for("working for", count + 1)
        self.workers = [
            worker if worker.process.poll() is None else self._worker() for worker in self.workers
        ]

    def _points(self) -> Counter[str]:
        return Counter(point["vm"]["name"] for point in self.pitr.json("list")["points"])

    def _check_newest(self, vm: LabVM) -> None:
        oracle = self.folder / "oracle"
        oracle.unlink(missing_ok=True)
        vm.disks[0].copy_content(oracle)
        target = self.folder / "restored"
        target.unlink(missing_ok=True)
        self.pitr.json("restore", vm.name, "--at", "now", "--to-file", target)
        assert_same(target, oracle)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    given = parser.parse_args()
    _say(f"seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="pitr-soak-") as name, Lab(phase_lag_s=0.1) as lab:
        folder = Path(name)
        (folder / "config.toml").touch()
        pitr = Pitr(
            {
                **lab.environment(),
                "PITR_REPO": str(folder / "repository"),
                "PITR_CONFIG": str(folder / "config.toml"),
                "COLUMNS": "200",
            }
        )
        pitr("init")
        with fleet_of(pitr) as fleet:
            soak = Soak(lab, pitr, fleet, random.Random(given.seed), folder)
            for number in range(given.kills):
                began = time.monotonic()
                soak.kill_once()
                _say(f"{number + 1}: {dict(soak.counts)}, {time.monotonic() - began:.1f} s")
        assert pitr.json("verify")["ok"]
    _say(f"{given.kills} kills: {dict(soak.counts)}")


if __name__ == "__main__":
    main()
