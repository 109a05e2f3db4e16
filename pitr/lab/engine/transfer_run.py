# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a transfer in the background with a ticket of the daemon."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from pitr.errors import LabError, PitrError, ProgramFailed
from pitr.lab.engine import disks, events
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.state import Backup, Disk, Transfer, new_id
from pitr.lab.host.host import TicketTimes
from pitr.system.process import run

log = logging.getLogger("pitr.lab.engine")

#: Seconds between two checks of a ticket. The daemon counts its idle time in whole seconds.
POLL_S = 0.5
#: A ticket must outlive each pause that the inactivity timeout allows.
TICKET_MARGIN_S = 240
#: The requests that do not end a transfer, and the phases after them.
_GO_ON = {"pause": "paused_user", "pause by system": "paused_system", "resume": "transferring"}


def start(installation: Installation, transfer: Transfer, disk: Disk, backup: Backup | None) -> None:
    """Run the phases of `transfer` in a new thread."""
    work = _SimulatedTransfer(installation, transfer, disk, backup)
    installation.workers.start(f"transfer {transfer.id[:8]}", work.run)


class _SimulatedTransfer:
    def __init__(
        self, installation: Installation, transfer: Transfer, disk: Disk, backup: Backup | None
    ) -> None:
        self._installation = installation
        self._state = installation.state
        self._transfer = transfer
        self._disk = disk
        self._backup = backup
        self._serving = False

    def run(self) -> None:
        self._installation.lag()
        request = self._await_request() if self._open() else self._request_of_system()
        while request in _GO_ON:
            if request == "resume":
                self._installation.lag()
                self._set_phase("transferring" if self._renew_ticket() else "paused_system")
            else:
                self._set_phase(_GO_ON[request])
            request = self._await_request()
        if request == "finalize":
            self._finalize()
        elif request == "cancel":
            self._cancel()
        else:
            self._stop_by_system()

    @property
    def _is_download(self) -> bool:
        return self._transfer.direction == "download"

    @property
    def _is_block(self) -> bool:
        domain = self._state.storage_domains.get(self._disk.storage_domain_id)
        return domain is not None and domain.is_block

    def _mark_volume(self, *, legal: bool) -> None:
        with self._state.lock:
            self._disk.volume_legal = legal

    def _set_phase(self, phase: str) -> None:
        with self._state.lock:
            self._transfer.phase = phase
            self._transfer.history.append(phase)
            if self._transfer.ended:
                self._transfer.ended_at = time.monotonic()
            self._state.lock.notify_all()

    def _open(self) -> bool:
        """Open the disk and create a ticket. Return False if the host cannot."""
        host, transfer, disk = self._installation.host, self._transfer, self._disk
        ticket_id = new_id()
        dirty = self._backup is not None and self._backup.disks[disk.id] is not None
        try:
            if self._installation.faults.happens("transfer start"):
                raise LabError("a test made it fail")
            if self._backup is not None and disk.id in self._backup.lost_bitmaps:
                raise LabError(f"Bitmap does not exist: {self._backup.disks[disk.id]}")
            with self._installation.host_lock:
                if self._backup is not None:
                    url = host.backup_export(self._backup.id, disk.id)
                else:
                    url = host.serve_volume(
                        disk.id, read_only=self._is_download, discard=disk.sparse and not self._is_block
                    )
                    self._serving = True
                    if not self._is_download:
                        self._mark_volume(legal=False)
            host.add_ticket(
                ticket_id,
                nbd_url=url,
                size=disk.size,
                ops=["read" if self._is_download else "write"],
                dirty=dirty,
                sparse=disk.sparse,
                times=TicketTimes(
                    transfer.inactivity_timeout_s + TICKET_MARGIN_S, transfer.inactivity_timeout_s
                ),
                transfer_id=transfer.id,
            )
        except PitrError as error:
            log.warning("transfer %s cannot start: %s", transfer.id, error.message)
            return False
        with self._state.lock:
            transfer.ticket_id = ticket_id
            self._set_phase("transferring")
        return True

    def _renew_ticket(self) -> bool:
        """Renew the ticket of a paused transfer. Return False if the daemon lost it: there is no second one."""
        ticket_id = self._transfer.ticket_id
        try:
            timeout_s = self._transfer.inactivity_timeout_s + TICKET_MARGIN_S
            return ticket_id is not None and self._installation.host.renew_ticket(ticket_id, timeout_s)
        except LabError as error:
            log.warning("transfer %s cannot go on: %s", self._transfer.id, error.message)
            return False

    def _request_of_system(self) -> str:
        """Return what the system does with a transfer that cannot start, or that nobody uses."""
        policy = self._transfer.timeout_policy
        cancels = policy == "cancel" or (policy == "legacy" and self._is_download)
        return "cancel by system" if cancels else "pause by system"

    def _await_request(self) -> str:
        """Wait for the next request of the client, and watch the ticket while data can flow."""
        while True:
            with self._state.lock:
                if self._transfer.asked is None:
                    self._state.lock.wait(POLL_S)
                asked, ticket_id = self._transfer.asked, self._transfer.ticket_id
                flowing = self._transfer.phase == "transferring"
                # Keep a request to end, because a second request must not change it.
                if asked in _GO_ON:
                    self._transfer.asked = None
            self._installation.workers.sleep(0)
            if asked is not None:
                return asked
            if flowing and ticket_id is not None and self._is_abandoned(ticket_id):
                return self._request_of_system()

    def _is_abandoned(self, ticket_id: str) -> bool:
        try:
            ticket = self._look_at(ticket_id)
        except LabError:
            # The daemon restarts; the next check finds out whether it still has the ticket.
            return False
        if ticket is None:
            return True
        return not ticket["active"] and ticket["idle_time"] >= self._transfer.inactivity_timeout_s

    def _look_at(self, ticket_id: str) -> dict[str, Any] | None:
        """Return the daemon's information about the ticket, and copy it to the transfer for clients."""
        ticket = self._installation.host.ticket(ticket_id)
        if ticket is not None:
            with self._state.lock:
                self._transfer.transferred = ticket.get("transferred", 0)
                self._transfer.active = bool(ticket["active"])
        return ticket

    def _close(self) -> None:
        """Remove the ticket and close the disk; wait for running operations first."""
        with self._state.lock:
            ticket_id, self._transfer.ticket_id = self._transfer.ticket_id, None
        while ticket_id is not None:
            try:
                # The daemon forgets its count with the ticket.
                self._look_at(ticket_id)
                if self._installation.host.remove_ticket(ticket_id):
                    break
            except LabError:
                if self._installation.workers.closing:
                    raise
            self._installation.workers.sleep(0.1)
        if self._serving:
            with self._installation.host_lock:
                self._installation.host.stop_serving(self._disk.id)
            self._serving = False

    def _finalize(self) -> None:
        self._set_phase("finalizing_success")
        self._close()
        self._installation.lag()
        if self._is_download:
            self._unlock_disk()
            self._set_phase("finished_success")
            return
        try:
            self._verify()
        except PitrError:
            self._set_phase("finalizing_failure")
            self._installation.lag()
            self._end_badly()
            return
        self._mark_volume(legal=True)
        self._unlock_disk()
        self._set_phase("finished_success")

    def _cancel(self) -> None:
        self._set_phase("cancelled_user")
        self._installation.lag()
        self._set_phase("finalizing_cleanup")
        self._close()
        self._installation.lag()
        self._set_phase("finished_cleanup")
        self._end_badly()

    def _stop_by_system(self) -> None:
        events.record(
            self._installation,
            events.TRANSFER_FAILED,
            f"Image {'Download' if self._is_download else 'Upload'} with disk {self._disk.name} failed.",
            subject_id=self._transfer.id,
        )
        self._set_phase("cancelled_system")
        self._installation.lag()
        self._set_phase("finalizing_failure")
        self._close()
        self._end_badly()

    def _end_badly(self) -> None:
        """Remove the disk of a failed upload, even if it is not new."""
        if self._is_download:
            self._unlock_disk()
        else:
            disks.drop(self._installation, self._disk)
        self._installation.lag()
        self._set_phase("finished_failure")

    def _unlock_disk(self) -> None:
        # Unlock it even if its backup still runs: disks do not show the state of a backup.
        with self._state.lock:
            self._disk.status = "ok"

    def _verify(self) -> None:
        """Check the volume as the host does after an upload. Raises ProgramFailed or LabError."""
        if self._installation.faults.happens("upload verification"):
            raise LabError("a test made the upload fail")
        volume = self._installation.host.volume(self._disk.id)
        with self._installation.host_lock:
            said = run(["qemu-img", "info", "--output=json", str(volume.path)])
        info = json.loads(said)
        if info["format"] != volume.qemu_format or info["virtual-size"] < self._disk.size:
            raise ProgramFailed(f"disk {self._disk.id} is not what it should be after the upload: {said}")
