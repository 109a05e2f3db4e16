# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of the log."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Self

from pitr.errors import UsageError
from pitr.system.target_path import refuse_new_device


class LogFile(WatchedFileHandler):
    """Appends to a file, and opens it again when logrotate has renamed it. A new file has mode 0600.

    `told` is true once the user knows that lines are missing.
    """

    told = False

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Open the file. Raises UsageError."""
        if not path.exists():
            refuse_new_device(path.absolute())
        try:
            return cls(path.absolute(), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(
                f"cannot write the log file {path}: {error.strerror}", "Name another file with --log-file."
            ) from None

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(handle, "ab"), encoding=self.encoding, errors=self.errors)

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Say once that the log is incomplete: a full disk must not stop a backup."""
        if not self.told:
            self.told = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"pitr: cannot write the log file {self.baseFilename}: {error}\n")
