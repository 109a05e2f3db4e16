# SPDX-License-Identifier: GPL-2.0-or-later
"""Every failure that pitr reports, as a type: what happened, its exit code, and what to do about it.

The exit codes are a promise to scripts (docs/design.md): 1 failed, 2 usage, 3 damage found, 4 no such point,
VM or disk, 5 busy, 6 the engine or imageio refused or is unreachable, 128+N on signal N.
"""

from __future__ import annotations

import signal


class PitrError(Exception):
    """A failure with a message for a person, and `advice`: what to do next ("" when there is none)."""

    exit_code = 1

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class UsageError(PitrError):
    """The command was called in a way that cannot be carried out."""

    exit_code = 2


class RepositoryError(PitrError):
    """The repository cannot be opened, created or written."""


class DamageError(PitrError):
    """Something stored is missing or is not what was written.

    `damage` holds the findings as the JSON documents of docs/json.md (DAMAGE), when there are any to list.
    """

    exit_code = 3

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message, advice or "Run 'pitr verify' to see everything that is damaged.")


class UntrackedChange(DamageError):
    """A disk has changed where the engine says that it has not: no incremental backup of it can be trusted."""


class FormatError(PitrError):
    """A stream that comes from outside is not in the format that it should be in."""


class FileSystemError(PitrError):
    """A guest's file system is damaged, or is of a kind that is not read."""


class NoSuchError(PitrError):
    """What was named does not exist."""

    exit_code = 4


class NoSuchPoint(NoSuchError):
    pass


class NoSuchVM(NoSuchError):
    pass


class NoSuchDisk(NoSuchError):
    pass


class NoSuchFile(NoSuchError):
    """A point holds no such volume, or a volume no such file."""


class NothingToBackUp(NoSuchDisk):
    """A VM has no disk that a backup could hold."""


class BusyError(PitrError):
    """Another pitr works on this VM or repository."""

    exit_code = 5


class EngineError(PitrError):
    """The engine refused, failed or cannot be reached."""

    exit_code = 6


class LoginError(EngineError):
    """The engine does not accept the user name and password."""


class EngineBusy(EngineError):
    """The engine answered 409: something else works on the VM or disk."""


class CheckpointGone(EngineError):
    """The checkpoint that an incremental backup starts from is not usable any more."""


class ImageioError(EngineError):
    """ovirt-imageio refused, failed or cannot be reached."""


class NbdError(PitrError):
    """An NBD server refused, failed or cannot be reached.

    `connection_lost`: the connection broke or the server was silent, so that a new connection may do better.
    """

    def __init__(self, message: str, advice: str = "", *, connection_lost: bool = False) -> None:
        super().__init__(message, advice)
        self.connection_lost = connection_lost


class ProgramMissing(PitrError):
    """A program that pitr calls is not installed; the advice names the Debian package."""


class ProgramFailed(PitrError):
    """A program that pitr calls has failed; the message holds what it said."""


class LabError(PitrError):
    """The local oVirt could not be started or has failed."""


class Interrupted(PitrError):
    """A signal asked pitr to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum
