# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that is piped out at the speed of a consumer that is slow for a while. With PITR_SOAK=1, of 1 GiB."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from pitr.lab import Lab
from tests.support.lab import assert_same
from tests.support.pitr import Pitr

MiB = 1 << 20
SIZE = 1 << 30 if os.environ.get("PITR_SOAK") else 64 * MiB
#: How long the consumer takes 1 MB/s only: twice as long as the engine lets a transfer be idle.
SLOW_S = 4.0
IDLE_S = 2

_PROGRAM = f"""
from functools import partial
import sys
from pitr.jobs.backup import one_disk
one_disk.start_download = partial(one_disk.start_download, inactivity_timeout_s={IDLE_S})
one_disk.kept_alive = partial(one_disk.kept_alive, interval_s=0.3)
from pitr.cli.main import main
sys.exit(main())
"""


def test_a_stream_at_a_megabyte_per_second_for_a_while(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    content = tmp_path / "content"
    chance = random.Random(1)
    with content.open("wb") as file:
        for _ in range(SIZE // MiB):
            file.write(chance.randbytes(MiB))
    vm = lab.add_vm("slow", compat="4.6")
    vm.add_disk("d0", SIZE, content=content)
    vm.start()
    stream = tmp_path / "stream"
    command = [sys.executable, "-c", _PROGRAM, "backup", vm.name, "--to", "-", "--compress", "none"]
    with (
        stream.open("wb") as out,
        subprocess.Popen(
            command,
            env={**os.environ, **pitr.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        ) as process,
    ):
        assert process.stdout is not None
        out.write(process.stdout.read(1))
        started = time.monotonic()
        while time.monotonic() - started < SLOW_S:
            out.write(process.stdout.read(100_000))
            time.sleep(0.1)
        # It has not read ahead: what it holds is bounded by its workers and windows.
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < 250 * MiB
        assert lab.open_transfers() and out.tell() < 10 * MiB
        while data := process.stdout.read(4 * MiB):
            out.write(data)
        assert process.wait() == 0
    assert stream.stat().st_size > SIZE
    pitr("restore", "--from", stream, "--to-file", tmp_path / "restored.raw")
    assert_same(tmp_path / "restored.raw", content)
    vm.stop()
