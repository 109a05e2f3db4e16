# SPDX-License-Identifier: GPL-2.0-or-later
"""Replace a file so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from pitr.errors import PitrError, UsageError
from pitr.system.target_path import refuse_new_device


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Write `data` to a new file beside `path`, with `mode` for any umask, and give it that name. Follows links.

    Raises UsageError if `path` is no regular file or would be a new file in /dev, PitrError.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise UsageError(f"{path} is not a regular file", "Name a file that pitr can replace.")
        if not target.exists():
            refuse_new_device(target)
        # Collectors of files ignore names that begin with a dot.
        scratch = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:8]}")
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            scratch.replace(target)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise
    except (OSError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PitrError(f"cannot write {path}: {reason}") from error


def move_file(source: Path, target: Path) -> None:
    """Give a file the name `target`, in the place of a file that has it, even if that is on another file system.

    Raises OSError.
    """
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    scratch = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:8]}")
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with source.open("rb") as read, os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(read, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    source.unlink()
