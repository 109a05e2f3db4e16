# SPDX-License-Identifier: GPL-2.0-or-later
"""The failures that pitr reports, a type for each kind.

A message says what failed and why, without a full stop at its end. The advice says what to do, in whole sentences.
The printer (pitr/cli/display/output.py) puts the full stop between them.

The exit codes are a promise to scripts (docs/design.md): 1 failed, 2 usage, 3 damage found, 4 no such point,
VM or disk, 5 busy, 6 the engine or imageio refused, failed or is unreachable, 128+N on signal N.
"""

from __future__ import annotations

import signal
from typing import Any


class PitrError(Exception):
    """A failure with a message for people and advice on what to do next ("" for none)."""

    exit_code = 1

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors of another process come as they are, whatever their parameters.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[PitrError], arguments: tuple[Any, ...], state: dict[str, Any]) -> PitrError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class UsageError(PitrError):
    """The user asked for something that pitr cannot do: wrong options, values or combinations."""

    exit_code = 2


class RepositoryError(PitrError):
    """The repository cannot be opened, created, read or written."""


class DamageError(PitrError):
    """Stored data is missing or differs from the data that was written."""

    exit_code = 3

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message, advice or "Run 'pitr verify' to list all damage.")


class UntrackedChange(DamageError):
    """A disk changed in a range that the engine reported as unchanged; incremental backups of it are not safe."""


class FormatError(PitrError):
    """Data from outside or from the repository is not in its format."""


class FileSystemError(PitrError):
    """A guest's file system is damaged, or pitr cannot read its type."""


class NoSuchError(PitrError):
    """The named point, VM, disk or file does not exist."""

    exit_code = 4


class NoSuchPoint(NoSuchError):
    """The repository has no such point."""


class NoSuchVM(NoSuchError):
    """The engine or the repository has no such VM."""


class NamesSealed(PitrError):
    """A VM is named, and the names in the repository are sealed: only an identity tells which VM is meant."""


class NoFittingIdentity(PitrError):
    """None of the identities opens a sealed object."""


class NoSuchDisk(NoSuchError):
    """The VM, the point or the engine has no such disk."""


class NoSuchFile(NoSuchError):
    """The point has no such guest volume, or the volume no such file."""


class NothingToContinue(NoSuchError):
    """No earlier run has left anything unfinished."""


class NothingToBackUp(NoSuchDisk):
    """The VM has no disk that pitr can back up."""


class NotNow(NothingToBackUp):
    """A hook asked to skip the VM or the run this time (exit code 75)."""


class BusyError(PitrError):
    """Another process uses the VM, the repository or the address that pitr needs."""

    exit_code = 5


class BaseRemoved(BusyError):
    """Another host removes, or has removed, what a new point is based on; or the run took so long that it could."""


class EngineError(PitrError):
    """The engine refused, failed or is unreachable."""

    exit_code = 6


class LoginError(EngineError):
    """The engine rejects the user name or the password."""


class EngineBusy(EngineError):
    """The engine answered 409: another operation uses the VM or disk."""


class CheckpointGone(EngineError):
    """The engine cannot use the checkpoint that an incremental backup starts from."""


class TransferStopped(EngineError):
    """The engine itself stopped a transfer, or could not start it."""


class DiskUnfinished(EngineError):
    """pitr has begun to change a disk in place, and the disk now holds neither its old nor its new data.

    `disk_id` is the disk. `transfer_id` is its upload, which stays open so that the engine keeps the disk locked; None
    if none is open. The exit code is the cause's.
    """

    def __init__(
        self, message: str, advice: str = "", *, disk_id: str, transfer_id: str | None, exit_code: int = 6
    ) -> None:
        super().__init__(message, advice)
        self.disk_id = disk_id
        self.transfer_id = transfer_id
        self.exit_code = exit_code


class DiskRemoved(EngineError):
    """An upload that changed a disk in place ended without success, and so the engine removes the disk."""


class IncrementalStopped(EngineError):
    """An incremental backup stopped before pitr had read all changes. A full backup does not need the changes.

    `disk_name` is the disk that stopped it, None for the backup as a whole.
    """

    def __init__(self, message: str, advice: str = "", *, disk_name: str | None = None) -> None:
        super().__init__(message, advice)
        self.disk_name = disk_name


class ImageioError(EngineError):
    """ovirt-imageio refused, failed or is unreachable. `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, advice: str = "", *, status: int | None = None) -> None:
        super().__init__(message, advice)
        self.status = status


class NbdError(PitrError):
    """An NBD server refused, failed or is unreachable.

    `connection_lost` means that the connection broke or timed out, so a retry on a new connection may succeed.
    """

    def __init__(self, message: str, advice: str = "", *, connection_lost: bool = False) -> None:
        super().__init__(message, advice)
        self.connection_lost = connection_lost


class ProgramMissing(PitrError):
    """A program or library that pitr needs is not installed; the advice names the package."""


class ProgramFailed(PitrError):
    """A program that pitr runs failed; the message holds its error output."""


class LabError(PitrError):
    """The local oVirt cannot start or failed."""


class Interrupted(PitrError):
    """A signal stopped pitr. The exit code is 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum
