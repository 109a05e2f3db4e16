# SPDX-License-Identifier: GPL-2.0-or-later
"""Other programs: required, run and started in the background. Shell commands are in shell.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from pitr.errors import ProgramFailed, ProgramMissing

#: The Debian package of each program.
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


#: Folders for root's programs. They are often not on the PATH of other users and of cron.
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH or in the folders for root's programs; None if there is none."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_FOLDERS)))


def require(*programs: str, everywhere: bool = False) -> None:
    """Check that all `programs` are on PATH or, with `everywhere`, where `find_program` looks.

    Raises ProgramMissing with the Debian packages of the missing ones."""
    find = find_program if everywhere else shutil.which
    missing = [program for program in programs if find(program) is None]
    if missing:
        packages = sorted({DEBIAN_PACKAGES.get(program, program) for program in missing})
        raise ProgramMissing(
            f"these programs are not installed: {', '.join(missing)}",
            f"On Debian: apt-get install {' '.join(packages)}",
        )


def run(
    command: Sequence[str], *, timeout_s: float | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run `command` and return its standard output.

    Raises ProgramMissing, and ProgramFailed with the last 2,000 characters of its standard error.
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
        raise ProgramFailed(f"{command[0]} did not exit within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ProgramFailed(f"{command[0]} failed with exit code {done.returncode}: {output}")
    return done.stdout


# The parent-death signal comes when the *thread* that started the child ends. This one lives as long as pitr.
STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")


def start(
    command: Sequence[str], output: IO[bytes], *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start `command` in the background with its output and errors in `output`. The caller stops it.

    The command gets SIGTERM when pitr dies. It does not get the terminal's Ctrl-C. It keeps the files `pass_fds`.
    """
    return STARTER.submit(
        subprocess.Popen,
        [*death_signal_launcher(), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        process_group=0,
    ).result()


def start_piped(
    command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` with an unbuffered pipe (subprocess.PIPE) to or from it. The caller stops it.

    The command does not get the terminal's Ctrl-C. Its errors go to pitr's standard error, and so does its output
    unless that is a pipe. Raises ProgramMissing.
    """
    if shutil.which(command[0]) is None:
        raise ProgramMissing(f"the command {command[0]} was not found", "Check its name and PATH.")
    return STARTER.submit(
        subprocess.Popen,
        [*death_signal_launcher(), *command],
        stdin=stdin,
        stdout=2 if stdout is None else stdout,
        bufsize=0,
        process_group=0,
    ).result()


def death_signal_launcher() -> list[str]:
    """Return the words before a command that make it get SIGTERM when pitr dies."""
    # setpriv is in util-linux. Without it the command works too, but outlives a killed pitr.
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
