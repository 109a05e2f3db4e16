# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploads that change a disk in place.

The engine removes the disk of every upload that ends without success, whoever made the disk and whatever it holds. So
pitr never cancels such an upload. It asks the engine to pause it when it is not used, resumes it after trouble, and
finalizes it at the end. A paused upload keeps its disk locked: no VM can start from a disk that is half written.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ovirtsdk4 import types

from pitr.errors import (
    DiskRemoved,
    DiskUnfinished,
    EngineBusy,
    EngineError,
    Interrupted,
    PitrError,
    UsageError,
)
from pitr.ovirt.engine.attached_transfers import AttachedTransfer, find_transfer
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disks import disk_exists, wait_until_ok
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.local_host import VDSM_ID_FILE
from pitr.ovirt.engine.transfers import INACTIVITY_TIMEOUT_S, Transfer
from pitr.ovirt.engine.values import enum_text
from pitr.ovirt.engine.wait import pauses

_PAUSED = frozenset({"paused_system", "paused_user"})
_ENDED = frozenset({"finished_success", "finished_failure", "gone"})


def start_in_place(
    engine: Engine,
    disk_id: str,
    *,
    left: str | None = None,
    inactivity_timeout_s: float = INACTIVITY_TIMEOUT_S,
    timeout_s: float = 600.0,
    vdsm_id_file: Path = VDSM_ID_FILE,
) -> InPlaceUpload:
    """Return an upload that writes into the existing disk; entering it starts it.

    `left` is the id of an upload that an earlier run has left open: entering goes on with it, or opens a new one where
    the old one has ended. `timeout_s` limits each wait for the engine. No VM that runs may use the disk.
    """
    return InPlaceUpload(
        engine,
        disk_id,
        left=left,
        inactivity_timeout_s=inactivity_timeout_s,
        timeout_s=timeout_s,
        vdsm_id_file=vdsm_id_file,
    )


def open_uploads(engine: Engine, disk_id: str) -> list[AttachedTransfer]:
    """Return the open uploads that change the disk in place. A killed run leaves one open at most.

    They are those that the engine pauses without use; another client can have started one, too. Raises EngineError.
    """
    ids = start_in_place(engine, disk_id).ids_on_engine()
    found = [find_transfer(engine, transfer_id) for transfer_id in ids]
    return [upload for upload in found if upload is not None and upload.phase not in _ENDED]


class InPlaceUpload(Transfer):
    """An upload into an existing disk; a context manager that never cancels.

    Entering it returns when data can flow. It raises EngineBusy (another upload or operation has the disk),
    TransferStopped (the host cannot open the disk; nothing was written) or EngineError. Leaving it finalizes the upload
    and waits until the disk is "ok". After an error it pauses the upload instead, so that the disk stays, locked, and
    raises DiskUnfinished; an interrupt gets a note and stays the error that it is. If the engine refuses the data at
    the end, it removes the disk: DiskRemoved. Close all clients first.

    `revive` makes data flow again after trouble. `unfinished` and `open_transfer_id` tell how the disk was left.
    """

    _policy = types.ImageTransferTimeoutPolicy.PAUSE

    def __init__(
        self,
        engine: Engine,
        disk_id: str,
        *,
        left: str | None,
        inactivity_timeout_s: float,
        timeout_s: float,
        vdsm_id_file: Path,
    ) -> None:
        super().__init__(
            engine,
            disk_id,
            direction="upload",
            backup_id=None,
            inactivity_timeout_s=inactivity_timeout_s,
            timeout_s=timeout_s,
            vdsm_id_file=vdsm_id_file,
        )
        self._left = self._id = left
        self._unfinished = left is not None
        self._open = left is not None
        self._resumed: set[str] = set()

    @property
    def unfinished(self) -> bool:
        """Whether the disk may hold a part of the new data: from the start until the upload is finalized."""
        return self._unfinished

    @property
    def open_transfer_id(self) -> str | None:
        """The id of the upload that is open on the engine, None if none is."""
        return self._id if self._open else None

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException as error:
            self._tell(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except BaseException as failure:
            self._tell(failure)
            raise
        if error is not None:
            self._tell(error)

    def ids_on_engine(self) -> list[str]:
        """Return the ids of the open uploads that change the disk in place. Raises EngineError."""
        return sorted(str(found.id) for found in self._open_ones() if found.timeout_policy == self._policy)

    def revive(self) -> None:
        """Make data flow again after imageio, the network or the engine had trouble.

        It resumes the upload. If imageio has lost the ticket, or a resumed upload has trouble again, it finalizes the
        upload, which keeps the disk, and opens another one: `id` and the URLs are then new. Data that was not flushed
        may be lost. Raises DiskRemoved, EngineError.
        """
        self._reopen(self.id)

    def end_early(self) -> bool:
        """Pause the upload, which keeps the disk, and return whether it was open. Raises EngineError."""
        if self._id is None or self._current_phase() in _ENDED:
            self._open = False
            return False
        for last in pauses(self._timeout_s, self._engine.poll_interval_s):
            phase = self._current_phase()
            if phase in _ENDED:
                self._open = False
                return True
            if phase in _PAUSED:
                return True
            if phase == "transferring":
                self._ask("pause")
            if last:
                break
        raise EngineError(f"{self._name} is not paused after {self._timeout_s:.0f} s (it is {phase})")

    # -- starting

    def _prepare(self) -> None:
        if self._left is not None:
            found = find_transfer(self._engine, self._left)
            if found is not None and (found.disk_id, found.direction) != (self.disk_id, "upload"):
                self._id, self._unfinished, self._open = None, False, False
                raise UsageError(f"transfer {self._left} is not an upload to disk {self.disk_id}")
        super()._prepare()
        others = self._before - {self._left}
        if others:
            raise EngineBusy(
                f"another upload to disk {self.disk_id} is open: transfer {min(others)}",
                "Finalize it on the engine. Do not cancel it: the engine would remove the disk.",
            )

    def _start(self) -> None:
        if self._left is None:
            self._open_new()
        else:
            self._reopen(self._left)

    def _open_new(self) -> None:
        self._id = self._transfer_url = self._proxy_url = None
        self._before = self._unfinished_ids()
        self._post()
        self._open = True
        self._wait_until_transferring()
        self._unfinished = True

    def _post(self) -> None:
        try:
            super()._post()
        except EngineError as error:
            # The answer was lost, the SDK sent the request twice, or a killed run did and the engine is late.
            started = set(self.ids_on_engine()) - self._before
            if len(started) != 1:
                raise
            self._id = started.pop()
            self._engine.log.info("%s; %s is open, continuing", error.message, self._name)

    def _reopen(self, transfer_id: str) -> None:
        """Let data flow through this upload again, or through a new one."""
        self._id = transfer_id
        again = transfer_id in self._resumed
        asked = False
        phase = "unknown"
        for _ in pauses(self._timeout_s, self._engine.poll_interval_s):
            found = self._get()
            phase = "gone" if found is None else enum_text(found.phase)
            if phase in _ENDED:
                self._start_again(phase)
                return
            if phase in _PAUSED and (again or (asked and phase == "paused_system")):
                self._end_and_start_again()
                return
            if phase in _PAUSED:
                asked = self._ask("resume") or asked
                self._resumed.add(transfer_id)
            elif found is not None and phase == "transferring" and asked:
                if found.transfer_url:
                    self._transfer_url = self._proxy_url = None
                    self._keep_urls(found)
                    return
            elif phase == "transferring":
                # The engine may not know yet that imageio has lost the ticket. Resuming tells.
                self._ask("pause")
        raise EngineError(
            f"{self._name} does not go on after {self._timeout_s:.0f} s (it is {phase})",
            "Check the engine's events.",
        )

    def _end_and_start_again(self) -> None:
        self._engine.log.info("%s cannot be resumed: finalizing it, and opening another one", self._name)
        self._start_again(self._end("finalize"))

    def _start_again(self, phase: str) -> None:
        """Open another upload after the last one ended in this phase."""
        self._open = False
        self._check_not_removed(phase)
        wait_until_ok(self._engine, self.disk_id, self._timeout_s)
        self._open_new()

    # -- ending

    def _finish(self) -> None:
        try:
            super()._finish()
        except EngineError:
            self._check_not_removed(self._current_phase())
            raise
        self._unfinished = self._open = False

    def _check_not_removed(self, phase: str) -> None:
        """Raise DiskRemoved if the upload ended in `phase` and so lost the disk."""
        if phase == "finished_failure" or (phase in _ENDED and not disk_exists(self._engine, self.disk_id)):
            name, self._unfinished, self._open = self._name, False, False
            raise DiskRemoved(
                f"{name} ended without success (it is {phase}), so the engine removes the disk",
                "Restore the disk from its backups.",
            )

    def _end_after(self, error: BaseException) -> None:
        if self._id is None:
            # The answer may be lost: find the upload that the request started.
            self._id = next(iter(self._unfinished_ids() - self._before), None)
            self._open = self._id is not None
        if isinstance(error, DiskRemoved):
            return
        if self._unfinished or not self._open:
            self.end_early()
            return
        # It never opened, so nothing was written: finalizing leaves the disk as it was.
        self._end("finalize")
        self._open = False

    def _tell(self, error: BaseException) -> None:
        """Say that the disk is unfinished: raise DiskUnfinished, or add a note to an interrupt."""
        if not self._unfinished:
            return
        state = (
            f"its upload (transfer {self._id}) stays open, so the engine keeps the disk locked"
            if self._open
            else "no upload is open, so a VM could start from it"
        )
        line = f"disk {self.disk_id} is unfinished: {state}"
        if isinstance(error, Interrupted) or not isinstance(error, PitrError):
            error.add_note(line)
            return
        raise DiskUnfinished(
            f"{error.message}; {line}",
            error.advice,
            disk_id=self.disk_id,
            transfer_id=self.open_transfer_id,
            exit_code=error.exit_code,
        ) from error

    def _ask(self, action: Literal["pause", "resume"]) -> bool:
        """Pause or resume, and return whether the engine accepted it; the phase tells what came of it."""
        try:
            self._engine.call(
                f"{action}: {self._name}", lambda system: getattr(self._service(system), action)()
            )
        except EngineFault as fault:
            if fault.status not in (400, 404, 409):
                raise
            self._engine.log.debug("%s", fault.message)
            return False
        return True

    def _current_phase(self) -> str:
        found = self._get()
        return "gone" if found is None else enum_text(found.phase)
