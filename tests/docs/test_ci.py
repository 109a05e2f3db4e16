# SPDX-License-Identifier: GPL-2.0-or-later
"""`.ci/run` runs the checks and the tests, and fails when one of them fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


CEPH = ("ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin")


@pytest.mark.parametrize(
    ("check", "counts", "s3", "test"),
    [(0, 0, 0, 0), (2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 2, 0), (0, 0, 0, 2), (2, 2, 2, 2)],
)
def test_it_runs_all_and_fails_when_one_fails(
    tmp_path: Path, check: int, counts: int, s3: int, test: int
) -> None:
    for program in CEPH:
        _program(tmp_path, program, "exit 1\n")
    done = _run(tmp_path, check, s3, test, counts=counts)
    assert (done.returncode == 0) == (check == counts == s3 == test == 0)
    lines = done.stdout.splitlines()
    assert "there is an input" not in lines
    assert lines[0] == "true: check"
    assert "true: bench-check" in lines
    assert "true: test-s3" in lines
    assert lines[-1] == "true: test"


def test_without_ceph_its_tests_are_skipped_and_this_is_said(tmp_path: Path) -> None:
    # The programs of this machine, without those of Ceph.
    for name in ("bash", "sh", "grep", "dirname", "read"):
        found = shutil.which(name)
        if found is not None:
            (tmp_path / name).symlink_to(found)
    script = (ROOT / ".ci/run").read_text().replace("PATH=$PATH:/usr/sbin:/sbin ", "")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text(script)
    done = _run(tmp_path, 0, 2, 0, path=str(tmp_path), script=tmp_path / ".ci/run")
    assert done.returncode == 0, done
    assert "true: test-s3" not in done.stdout
    assert f"make test-s3 is skipped: not installed: {' '.join(CEPH)}" in done.stdout.splitlines()


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def _run(
    folder: Path,
    check: int,
    s3: int,
    test: int,
    *,
    counts: int = 0,
    path: str | None = None,
    script: Path = ROOT / ".ci/run",
) -> subprocess.CompletedProcess[str]:
    _program(
        folder,
        "make",
        'echo "$CI: $1"\n'
        "read line && echo 'there is an input'\n"
        f"case $1 in check) code={check};; bench-check) code={counts};; test-s3) code={s3};; *) code={test};; esac\n"
        'if [ $code != 0 ]; then echo "make: *** [Makefile:1: $1] Error 1" >&2; fi\n'
        "exit $code\n",
    )
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(script)],
        env={**os.environ, "PATH": path or f"{folder}{os.pathsep}{os.environ['PATH']}"},
        input="an input\n",
        capture_output=True,
        text=True,
        check=False,
    )
