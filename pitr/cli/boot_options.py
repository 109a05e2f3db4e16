# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that boot a point."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from pitr.errors import UsageError
from pitr.jobs.boot.virtual_machine import check_memory
from pitr.jobs.boot.watch import Expected
from pitr.system.target_path import usable
from pitr.times import parse_wait
from pitr.units import parse_size

_PNG: Final = b"\x89PNG\r\n\x1a\n"

BootOption = Annotated[
    bool,
    typer.Option(
        "--boot",
        help="Boot the point in qemu, without a network, instead of restoring it to images: this takes minutes, "
        "however large the disks are.",
    ),
]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        "--expect",
        metavar="REGEX",
        help="With --boot: the guest is up when its serial console matches this regular expression.",
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of the guest. Default: as in the VM's configuration, at most 2G.",
    ),
]
BootTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--boot-timeout", metavar="TIME", help="With --boot: wait so long for a proof. Default: 5m."
    ),
]
ScreenshotOption = Annotated[
    str | None,
    typer.Option(
        "--screenshot",
        metavar="FILE.png",
        help="With --boot: write the last picture on the guest's screen to this file, too. The repository keeps it "
        "with the drill.",
    ),
]
DEFAULT_TIMEOUT: Final = "5m"


def expected(pattern: str | None, timeout: str | None) -> Expected:
    """Return what a drill waits for. Raises UsageError."""
    seconds = parse_wait("--boot-timeout", timeout or DEFAULT_TIMEOUT)
    if seconds <= 0:
        raise UsageError("--boot-timeout must be longer than 0", "Write the time with its unit: 90s, 5m.")
    if pattern == "":
        raise UsageError(
            "--expect is empty: it would match any console", "Name a text that the guest prints."
        )
    try:
        return Expected(re.compile(pattern, re.MULTILINE) if pattern is not None else None, seconds)
    except re.error as error:
        raise UsageError(
            f"--expect is no regular expression: {error}",
            r"Put a \ before special characters, as in 'login\:'.",
        ) from None


def memory(text: str | None) -> int | None:
    """Return the size of the guest's memory in bytes. Raises UsageError."""
    return check_memory(parse_size(text)) if text is not None else None


def screenshot(text: str | None) -> Path | None:
    """Return the file for the screenshot. It may replace a picture, but no other file. Raises UsageError."""
    if text is None:
        return None
    path = Path(usable(text, "--screenshot"))
    if text.endswith("/") or path.is_dir():
        raise UsageError(f"--screenshot: {text} is a folder", f"Name a file in it: {path / 'boot.png'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"--screenshot: the folder {path.parent} does not exist", "Create it, or name another one."
        )
    if os.path.lexists(path) and not _is_picture(path):
        raise UsageError(f"--screenshot: {path} exists and is no PNG picture", "Name another file.")
    return path


def _is_picture(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_PNG)) == _PNG
    except OSError:
        return False
