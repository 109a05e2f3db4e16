# SPDX-License-Identifier: GPL-2.0-or-later
"""`.ci/run` runs the checks and the tests, and fails when either fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("check", "test"), [(0, 0), (2, 0), (0, 2), (2, 2)])
def test_it_runs_both_and_fails_when_either_fails(tmp_path: Path, check: int, test: int) -> None:
    make = tmp_path / "make"
    make.write_text(
        "#!/bin/sh\n"
        'echo "$CI: $1"\n'
        "read line && echo 'there is an input'\n"
        f'if [ "$1" = check ]; then code={check}; else code={test}; fi\n'
        'if [ $code != 0 ]; then echo "make: *** [Makefile:1: $1] Error 1" >&2; fi\n'
        "exit $code\n"
    )
    make.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / ".ci/run")],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        input="an input\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (check == 0 and test == 0)
    lines = done.stdout.splitlines()
    assert "there is an input" not in lines
    assert lines[0] == "true: check"
    assert lines[-1] == "true: test"
