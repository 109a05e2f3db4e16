# SPDX-License-Identifier: GPL-2.0-or-later
"""Run an image transfer: the engine opens a disk for imageio, and closes it in any case."""

from __future__ import annotations

import time
from copy import copy
from pathlib import Path
from typing import Any, Literal

from ovirtsdk4 import types

from pitr.errors import EngineError, TransferStopped
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disks import disk_exists, wait_until_ok
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.finalizing import Finalizing
from pitr.ovirt.engine.local_host import VDSM_ID_FILE, local_host_id
from pitr.ovirt.engine.values import enum_text, required
from pitr.ovirt.engine.wait import pauses

#: Seconds without use after which the engine ends a transfer. Long enough for a tape that rewinds, short enough
#: that a transfer of a killed pitr does not lock its disk for hours.
INACTIVITY_TIMEOUT_S = 900.0

#: Seconds to wait for a busy disk, which is often free again soon.
_BUSY_S = 10.0

Direction = Literal["download", "upload"]

_ENDED = ("finished_success", "finished_failure", "gone")
#: A transfer in one of these phases never starts.
_BROKEN = frozenset(
    {
        "cancelled",
        "cancelled_system",
        "cancelled_user",
        "finalizing_cleanup",
        "finalizing_failure",
        "finalizing_success",
        "finished_cleanup",
        "finished_failure",
        "finished_success",
        "gone",
        "paused_system",
        "paused_user",
    }
)
#: The phases after the engine itself stopped a transfer; one that a user cancelled ends as finished_failure, too.
_STOPPED_BY_ENGINE = frozenset(
    {"cancelled_system", "finalizing_failure", "finished_failure", "paused_system"}
)


def start_download(
    engine: Engine,
    disk_id: str,
    *,
    backup_id: str | None = None,
    inactivity_timeout_s: float = INACTIVITY_TIMEOUT_S,
    timeout_s: float = 600.0,
    vdsm_id_file: Path = VDSM_ID_FILE,
) -> Transfer:
    """Return a transfer that reads the disk now, or its data in a ready backup; entering it starts it."""
    return Transfer(
        engine,
        disk_id,
        direction="download",
        backup_id=backup_id,
        inactivity_timeout_s=inactivity_timeout_s,
        timeout_s=timeout_s,
        vdsm_id_file=vdsm_id_file,
    )


def start_upload(
    engine: Engine,
    disk_id: str,
    *,
    inactivity_timeout_s: float = INACTIVITY_TIMEOUT_S,
    timeout_s: float = 600.0,
    vdsm_id_file: Path = VDSM_ID_FILE,
) -> Transfer:
    """Return a transfer that writes the disk; entering it starts it.

    The disk must be new, because the engine **deletes** the disk of any upload that fails.
    """
    return Transfer(
        engine,
        disk_id,
        direction="upload",
        backup_id=None,
        inactivity_timeout_s=inactivity_timeout_s,
        timeout_s=timeout_s,
        vdsm_id_file=vdsm_id_file,
    )


class Transfer(Finalizing):
    """An image transfer; a context manager.

    Entering it returns when data can flow. It raises EngineBusy (the disk is locked), TransferStopped (the host cannot
    open the disk's data) or EngineError. Leaving it
    finalizes the transfer and waits for its end; the disk of an upload then has the status "ok". After an error it
    finalizes a download and cancels an upload. Close all clients of the transfer first. `transfer_url` and
    `proxy_url` contain the ticket, which is a secret.
    """

    #: What the engine does with an upload that is not used. A paused upload locks its disk until somebody acts; a
    #: cancelled upload removes its disk.
    _policy = types.ImageTransferTimeoutPolicy.CANCEL

    def __init__(
        self,
        engine: Engine,
        disk_id: str,
        *,
        direction: Direction,
        backup_id: str | None,
        inactivity_timeout_s: float,
        timeout_s: float,
        vdsm_id_file: Path,
    ) -> None:
        self.disk_id = disk_id
        self.direction = direction
        self._engine = engine
        self._backup_id = backup_id
        self._inactivity_timeout_s = inactivity_timeout_s
        self._timeout_s = timeout_s
        self._vdsm_id_file = vdsm_id_file
        self._before: frozenset[str] = frozenset()
        self._id: str | None = None
        self._transfer_url: str | None = None
        self._proxy_url: str | None = None

    @classmethod
    def left_behind(
        cls, engine: Engine, disk_id: str, direction: Direction, *, timeout_s: float = 600.0
    ) -> list[Transfer]:
        """Return the open transfers of the disk, to call only `end_early` on them. Any client can have started them.

        It leaves out uploads that the engine would only pause without use: pitr starts such an upload only to change a
        disk that must stay, and `end_early` would remove the disk.
        """
        probe = cls(
            engine,
            disk_id,
            direction=direction,
            backup_id=None,
            inactivity_timeout_s=INACTIVITY_TIMEOUT_S,
            timeout_s=timeout_s,
            vdsm_id_file=VDSM_ID_FILE,
        )
        transfers = []
        for found in sorted(probe._open_ones(), key=lambda found: str(found.id)):
            if direction == "upload" and found.timeout_policy not in (None, cls._policy):
                continue
            transfer = copy(probe)
            transfer._id = found.id
            transfers.append(transfer)
        return transfers

    @property
    def id(self) -> str:
        """The engine's id of the transfer. Raises EngineError before the transfer is entered."""
        return self._known(self._id)

    @property
    def transfer_url(self) -> str:
        """The URL of the disk on its host. Raises EngineError before the transfer is entered."""
        return self._known(self._transfer_url)

    @property
    def proxy_url(self) -> str | None:
        """The URL of the disk on the engine's proxy, for clients that cannot reach the host."""
        return self._proxy_url

    # -- starting

    def _prepare(self) -> None:
        self._before = self._unfinished_ids()

    def _start(self) -> None:
        self._post()
        self._wait_until_transferring()

    def _post(self) -> None:
        host_id = local_host_id(self._engine, self.disk_id, self._vdsm_id_file)
        new = types.ImageTransfer(
            disk=types.Disk(id=self.disk_id),
            backup=None if self._backup_id is None else types.Backup(id=self._backup_id),
            host=None if host_id is None else types.Host(id=host_id),
            direction=types.ImageTransferDirection(self.direction),
            # The data as the guest sees it; the host converts it from and to the disk's format.
            format=types.DiskFormat.RAW,
            timeout_policy=self._policy,
            inactivity_timeout=max(1, round(self._inactivity_timeout_s)),
        )
        answer = self._add_when_free(new)
        self._id = required(answer.id, "the id of the transfer")
        self._keep_urls(answer)

    def _add_when_free(self, new: Any) -> Any:
        deadline = pauses(_BUSY_S, self._engine.poll_interval_s)
        while True:
            last = next(deadline)
            try:
                return self._engine.call(
                    f"starting the {self.direction} of disk {self.disk_id}",
                    lambda system: system.image_transfers_service().add(new),
                    idempotent=False,
                )
            except EngineFault as fault:
                if not fault.busy:
                    if faults.is_about_changes(fault):
                        raise TransferStopped(fault.message, fault.advice) from fault
                    raise
                if last:
                    raise faults.as_busy(fault) from fault
                self._engine.log.debug("%s; waiting", fault.message)

    def _wait_until_transferring(self) -> None:
        phase = "unknown"
        for _ in pauses(self._timeout_s, self._engine.poll_interval_s):
            found = self._get()
            phase = _phase(found)
            self._keep_urls(found)
            if phase in _BROKEN:
                kind = TransferStopped if phase in _STOPPED_BY_ENGINE else EngineError
                raise kind(
                    f"{self._name} did not start (it is {phase})",
                    "Check the engine's events, and the log of ovirt-imageio on the host.",
                )
            if phase == "transferring" and self._transfer_url is not None:
                return
        raise EngineError(
            f"{self._name} has not started after {self._timeout_s:.0f} s (it is {phase})",
            "Check the engine's events.",
        )

    def _keep_urls(self, found: Any | None) -> None:
        # The engine omits both as soon as the transfer is finalized.
        if found is not None:
            self._transfer_url = self._transfer_url or found.transfer_url
            self._proxy_url = self._proxy_url or found.proxy_url

    def phase_if_stopped(self) -> str | None:
        """Return the transfer's phase if the engine itself stopped it, else None. Raises EngineError."""
        phase = _phase(self._get())
        return phase if phase in _STOPPED_BY_ENGINE else None

    # -- ending

    def _finish(self) -> None:
        phase = self._end("finalize")
        # The engine forgets a transfer minutes after its end: an upload succeeded if its disk exists.
        ended_well = phase == "finished_success" or (
            phase == "gone" and (self.direction == "download" or disk_exists(self._engine, self.disk_id))
        )
        if ended_well:
            if self.direction == "upload":
                wait_until_ok(self._engine, self.disk_id, self._timeout_s)
            return
        raise EngineError(
            f"{self._name} failed at its end (it is {phase})",
            "Check the engine's events"
            + (
                "; the engine removes the disk."
                if self.direction == "upload"
                else ", and the log of ovirt-imageio."
            ),
        )

    def end_early(self) -> bool:
        """End the transfer without success and return whether it was open. Can be called again.

        It finalizes a download and cancels an upload; the engine then removes the disk of the upload. Raises
        EngineError after a timeout.
        """
        if self._id is None or _phase(self._get()) in _ENDED:
            return False
        if self.direction == "download":
            try:
                self._end("finalize")
                return True
            except EngineError as problem:
                self._engine.log.info("%s; cancelling", problem)
        self._end("cancel")
        return True

    def _end_after(self, error: BaseException) -> None:
        if self._id is None:
            # The answer may be lost: find the transfer that the request started.
            started = self._unfinished_ids() - self._before
            if len(started) > 1:
                error.add_note(
                    f"{len(started)} transfers of disk {self.disk_id} started at once; pitr ended none of them"
                )
                return
            self._id = next(iter(started), None)
        self.end_early()

    def _end(self, action: Literal["finalize", "cancel"]) -> str:
        """Finalize or cancel, wait for the end and return its phase. Raises EngineError after a timeout."""
        deadline = time.monotonic() + self._timeout_s
        for last in pauses(self._timeout_s, self._engine.poll_interval_s):
            try:
                self._engine.call(
                    f"{action}: {self._name}", lambda system: getattr(self._service(system), action)()
                )
                break
            except EngineFault as fault:
                if fault.missing or _phase(self._get()) in _ENDED:
                    break
                # The daemon can still count an operation of a client that pitr just closed.
                if fault.status not in (400, 409, 500) or last:
                    raise
                self._engine.log.debug("%s; waiting", fault.message)
        phase = "unknown"
        # The engine answers 200 even if the transfer does not exist: only the phase is reliable.
        for _ in pauses(max(deadline - time.monotonic(), 0.0), self._engine.poll_interval_s):
            phase = _phase(self._get())
            if phase in _ENDED:
                return phase
        raise EngineError(
            f"{self._name} has not ended after {self._timeout_s:.0f} s (it is {phase})",
            "Check the engine's events, or cancel the transfer on the engine.",
        )

    # -- the engine's entities

    @property
    def _name(self) -> str:
        return f"the {self.direction} of disk {self.disk_id} (transfer {self._id})"

    def _known(self, value: str | None) -> str:
        if value is None:
            raise EngineError(f"the {self.direction} of disk {self.disk_id} has not started")
        return value

    def _open_ones(self) -> list[Any]:
        transfers = self._engine.call(
            "listing image transfers", lambda system: system.image_transfers_service().list()
        )
        return [
            transfer for transfer in transfers if _phase(transfer) not in _ENDED and self._is_mine(transfer)
        ]

    def _unfinished_ids(self) -> frozenset[str]:
        return frozenset(required(found.id, "the id of a transfer") for found in self._open_ones())

    def _is_mine(self, transfer: Any) -> bool:
        """Return whether the transfer has this disk and direction. The answer calls the disk an image."""
        entity = transfer.image or transfer.disk
        return (
            entity is not None
            and entity.id == self.disk_id
            and enum_text(transfer.direction, absent=self.direction) == self.direction
        )

    def _get(self) -> Any | None:
        try:
            return self._engine.call(
                f"reading transfer {self._id}", lambda system: self._service(system).get()
            )
        except EngineFault as fault:
            if fault.missing:
                return None
            raise

    def _service(self, system: Any) -> Any:
        return system.image_transfers_service().image_transfer_service(self._id)


def _phase(found: Any | None) -> str:
    return "gone" if found is None else enum_text(found.phase)
