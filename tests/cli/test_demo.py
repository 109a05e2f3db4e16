# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo` checks its statements, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

DEMO = [sys.executable, "-m", "pitr", "demo"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The demo's folder for temporary files. The path is short because it contains unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    yield folder
    shutil.rmtree(folder)


def _environment(temporary: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), **more}


def _processes_of(folder: Path) -> list[bytes]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = command.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in line:
            found.append(line)
    return found


def test_the_demo_passes_its_checks_and_keeps_only_the_requested_files(
    temporary: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    done = subprocess.run(
        [*DEMO, "--keep", str(kept), "--output", "json"],
        env=_environment(temporary),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = orjson.loads(done.stdout)["demo"]
    assert report["ok"]
    assert all(proof["ok"] for proof in report["proofs"])
    assert len(report["proofs"]) >= 8
    steps = {step["command"]: step for step in report["steps"]}
    restore = steps["pitr restore --at 2020-06-30T22:00"]
    assert 0 < restore["uploaded_bytes"] < report["replayed_bytes"]
    assert "$ pitr backup web1 --full" in done.stderr.decode().splitlines()
    assert {path.name for path in kept.iterdir()} >= {"repo", "restored", "moments", "noon"}
    assert not list(temporary.iterdir())
    assert not _processes_of(temporary)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing(temporary: Path, signum: signal.Signals) -> None:
    with subprocess.Popen(
        DEMO,
        env=_environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("$ pitr backup"):
                break
        # Like Ctrl-C at a terminal, the demo and its command get the signal.
        os.killpg(process.pid, signum)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    assert said.splitlines()[-1] == f"pitr: stopped by {signum.name}."
    assert not list(temporary.iterdir())
    assert not _processes_of(temporary)


def test_missing_programs_are_one_line_with_their_packages(temporary: Path) -> None:
    done = subprocess.run(
        DEMO, env=_environment(temporary, PATH=str(temporary)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install qemu-system-common qemu-utils" in done.stderr


def test_an_existing_folder_is_refused(temporary: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--keep", str(temporary)],
        env=_environment(temporary),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert not list(temporary.iterdir())
