# SPDX-License-Identifier: GPL-2.0-or-later
"""Run another program that the kernel kills when its parent dies.

Run as a script: `python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT...`. A script of its own instead of a
preexec_fn: the parent has threads, and Python code between fork and exec of such a process can deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From linux/prctl.h.
PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # If the parent died before the line above, the kernel sends no signal.
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
