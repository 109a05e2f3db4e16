# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that runs other programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from pitr.errors import ProgramFailed, ProgramMissing

#: Program to the Debian package that has it.
DEBIAN_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "zstd": "zstd",
}


def require(*programs: str) -> None:
    """Check that all `programs` are on PATH.

    Raises ProgramMissing, one line with the Debian packages of all that are missing.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = sorted({DEBIAN_PACKAGES.get(program, program) for program in missing})
        raise ProgramMissing(
            f"these programs are not installed: {', '.join(missing)}",
            f"On Debian: apt-get install {' '.join(packages)}",
        )


def run(
    command: Sequence[str], *, timeout_s: float | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run `command` to its end and return its standard output.

    Raises ProgramMissing, or ProgramFailed with the last lines of its standard error.
    """
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env=env,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        require(command[0])
        raise
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{command[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ProgramFailed(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout


# A parent-death signal comes when the *thread* that started the child ends: this one lives as long as pitr does.
STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")


def start(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `command` in the background; what it says goes to `output`. The caller ends it.

    It gets SIGTERM when pitr dies, and does not get the terminal's Ctrl-C: whoever uses it ends it in order.
    """
    return STARTER.submit(
        subprocess.Popen,
        [*death_signal_launcher(), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
    ).result()


def start_piped(
    command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` with a pipe to or from it (subprocess.PIPE), unbuffered; what it says goes where pitr's goes.

    The caller ends it: it does not get the terminal's Ctrl-C. Its output, unless it is a pipe, goes to standard
    error. Raises ProgramMissing.
    """
    if shutil.which(command[0]) is None:
        raise ProgramMissing(f"the command {command[0]} is not there", "Check its name and PATH.")
    return STARTER.submit(
        subprocess.Popen,
        [*death_signal_launcher(), *command],
        stdin=stdin,
        stdout=2 if stdout is None else stdout,
        bufsize=0,
        process_group=0,
    ).result()


def death_signal_launcher() -> list[str]:
    """What stands before a command that is to get SIGTERM when pitr dies."""
    # setpriv belongs to util-linux; without it the command works too, but outlives a pitr that is killed.
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
