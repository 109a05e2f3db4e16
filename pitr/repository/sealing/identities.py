# SPDX-License-Identifier: GPL-2.0-or-later
"""The identities of this process: read from files or from a command when a sealed repository is opened.

No identity is ever an argument of a program, nor in a message. A process that holds one writes no core dump.
"""

from __future__ import annotations

import os
import resource
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pitr.errors import FormatError, PitrError, UsageError
from pitr.system.process import run

if TYPE_CHECKING:
    from pitr.repository.sealing.keys import Identity

VARIABLE = "PITR_IDENTITY_FILE"
_COMMAND_TIMEOUT_S = 60.0
_MAX_FILE = 1 << 16
_PREFIX = "AGE-SECRET-KEY-"
_DUMP_FILTER = Path("/proc/self/coredump_filter")


@dataclass(frozen=True, slots=True)
class KeySettings:
    """What options and the configuration say about keys.

    `recipients` are those of the configuration. `trust` accepts the recipients that the repository names.
    """

    identity_files: tuple[Path, ...] = ()
    identity_command: str | None = None
    recipients: tuple[str, ...] = ()
    trust: bool = False

    def with_environment(self, environ: Mapping[str, str]) -> KeySettings:
        """Return the settings with the variable's file, unless files were named."""
        named = environ.get(VARIABLE)
        if not named or self.identity_files:
            return self
        return KeySettings((Path(named),), self.identity_command, self.recipients, self.trust)

    @property
    def names_identity(self) -> bool:
        """Whether there is any identity to try."""
        return bool(self.identity_files or self.identity_command)

    def identities(self) -> list[Identity]:
        """Read the identities. Raises UsageError, which quotes none of them."""
        if not self.names_identity:
            return []
        _keep_out_of_core_dumps()
        read: list[Identity] = []
        for path in self.identity_files:
            read += _parsed(_of_file(path), f"the identity file {path}")
        if not self.identity_files and self.identity_command is not None:
            read += _parsed(_printed(self.identity_command), "the output of identity_command")
        return read


_settings = KeySettings()


def use(settings: KeySettings) -> None:
    """Use these settings for the repositories that this process opens from now on."""
    global _settings  # noqa: PLW0603 - one command line in a process
    _settings = settings


def settings() -> KeySettings:
    """Return the settings of this process."""
    return _settings.with_environment(os.environ)


def _of_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_FILE + 1)
    except UnicodeDecodeError:
        raise UsageError(f"the identity file {path} is not text") from None
    except OSError as error:
        raise UsageError(f"cannot read the identity file {path}: {error.strerror}") from None
    if len(text) > _MAX_FILE:
        raise UsageError(f"the identity file {path} is too large")
    return text


def _printed(command: str) -> str:
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        return run(words, timeout_s=_COMMAND_TIMEOUT_S)
    except (ValueError, OSError, PitrError) as error:
        # The output of a failed command is in the message, and may hold the identity.
        reason = error.message.partition(": ")[0] if isinstance(error, PitrError) else str(error)
        raise UsageError(
            f"identity_command under [encryption] printed no identity: {reason}", "Run the command by hand."
        ) from None


def _parsed(text: str, where: str) -> list[Identity]:
    from pitr.repository.sealing.keys import Identity  # noqa: PLC0415 - the extra may be missing

    read: list[Identity] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            if not stripped.startswith(_PREFIX):
                raise FormatError("pitr reads X25519 identities, AGE-SECRET-KEY-1…")
            read.append(Identity.parse(stripped))
        except FormatError as error:
            raise UsageError(f"line {number} of {where} is no identity: {error.message}") from None
    if not read:
        raise UsageError(f"{where} holds no identity", "'age-keygen -o FILE' makes one.")
    return read


def _keep_out_of_core_dumps() -> None:
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A program that receives core dumps gets them for any limit; then they have no memory.
    with suppress(OSError):
        _DUMP_FILTER.write_text("0")
