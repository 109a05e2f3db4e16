# SPDX-License-Identifier: GPL-2.0-or-later
"""Find qemu, and what it can do on this host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from pitr.errors import ProgramMissing
from pitr.system.process import find_program, run

#: Enterprise Linux has it outside of PATH.
_PLACES: Final = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm")
_PROBE_TIMEOUT_S: Final = 20.0
_KVM: Final = Path("/dev/kvm")
_WINDOWS: Final = ("gtk", "sdl")


def find_qemu() -> str:
    """Return the path of qemu for x86 guests. Raises ProgramMissing."""
    for name in _PLACES:
        path = find_program(name)
        if path is not None:
            return path
    raise ProgramMissing(
        "qemu for x86 guests is not installed",
        "On Debian: apt-get install qemu-system-x86. On Enterprise Linux: dnf install qemu-kvm",
    )


def accelerator(program: str) -> str:
    """Return "kvm" if a processor of KVM starts on this host, else "tcg": the file /dev/kvm alone proves little."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "tcg"
    # It starts the machine, stopped, and leaves: some nested machines fail only when they set up the processor.
    probe = [program, "-no-user-config", "-nodefaults", "-accel", "kvm", "-cpu", "host", "-display", "none"]
    probe += ["-m", "16M", "-S", "-monitor", "stdio"]
    try:
        done = subprocess.run(
            probe, input=b"quit\n", capture_output=True, check=False, timeout=_PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return "tcg"
    return "kvm" if done.returncode == 0 else "tcg"


def window(program: str) -> str:
    """Return the value of -display for a window on this desktop. Raises ProgramMissing."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ProgramMissing(
            "there is no desktop for a window: DISPLAY and WAYLAND_DISPLAY are not set",
            "Use --headless --vnc PORT, and connect a VNC viewer to the port.",
        )
    known = run([program, "-display", "help"]).split()
    for name in _WINDOWS:
        if name in known:
            return name
    raise ProgramMissing(
        "this qemu opens no windows",
        "On Debian: apt-get install qemu-system-gui. Or use --headless --vnc PORT.",
    )
