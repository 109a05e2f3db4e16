# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of evicted frames is reused: a cache in use takes hardly more than it holds."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import contextlib, io, json, resource, threading
from pathlib import Path
from pitr.cli.main import main
from pitr.endpoints.points.frame_cache import FrameCache

MIB = 1 << 20

# The command line says how memory is kept.
with contextlib.redirect_stdout(io.StringIO()):
    main(["--version"])

class Owner:
    def load(self, layer, number, decompressor):
        return b"x" * (MIB + number % 7 * 4096)

def taken():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt

owner, numbers = Owner(), iter(range(1 << 30))
start = taken()[0]
with FrameCache(64 * MIB, 4) as cache:
    def use(count):
        for number in [next(numbers) for _ in range(count)]:
            cache.ask([(owner, 0, number), (owner, 1, number)])
            cache.get((owner, 0, number))
            cache.get((owner, 1, number))
    def round(count):
        threads = [threading.Thread(target=use, args=(count,)) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    round(100)
    full, faults = taken()
    round(300)
    print(json.dumps({"beyond": full - start, "faults": taken()[1] - faults}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory as they do")
def test_what_one_frame_leaves_the_next_one_uses() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["beyond"] < 100 << 20
    # 1,800 frames of 256 pages went through the cache.
    assert found["faults"] < 1800 * 256 // 20
