# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's event log and its list of jobs."""

from __future__ import annotations

from pitr.lab.engine.installation import Installation
from pitr.lab.engine.state import Event, Job, new_id

BACKUP_STARTED = 10790
FULL_BACKUP_NEEDED = 10791
BACKUP_FAILED = 10792
BACKUP_SUCCEEDED = 10793
BACKUP_FINALIZED = 10794
BACKUP_FINALIZE_FAILED = 10795
SNAPSHOT_LEFT = 10813
DISK_ATTACH_FAILED = 2017
#: The engine's own code for this is not known; its clients only see the text.
TRANSFER_FAILED = 90001

_SEVERITIES = {
    FULL_BACKUP_NEEDED: "warning",
    BACKUP_FAILED: "error",
    BACKUP_FINALIZE_FAILED: "error",
    SNAPSHOT_LEFT: "warning",
    DISK_ATTACH_FAILED: "warning",
    TRANSFER_FAILED: "error",
}


def record(
    installation: Installation,
    code: int,
    description: str,
    *,
    subject_id: str,
    vm_id: str | None = None,
    correlation_id: str | None = None,
) -> None:
    """Add an event; a search for `subject_id` finds it."""
    state = installation.state
    with state.lock:
        event = Event(
            id=len(state.events) + 1,
            code=code,
            severity=_SEVERITIES.get(code, "normal"),
            description=description,
            time=installation.clock.now(),
            correlation_id=correlation_id,
            vm_id=vm_id,
            subject_id=subject_id,
        )
        state.events.append(event)


def found(installation: Installation, search: str) -> list[Event]:
    """Return the events that mention `search`, newest first; all events if it is empty."""
    wanted = search.strip().strip('"').lower()
    with installation.state.lock:
        return [
            event
            for event in reversed(installation.state.events)
            if wanted in f"{event.description} {event.subject_id} {event.correlation_id}".lower()
        ]


def start_job(installation: Installation, description: str, correlation_id: str | None) -> Job:
    """Add a running job; without a correlation id the engine creates one."""
    job = Job(
        id=new_id(),
        description=description,
        started=installation.clock.now(),
        correlation_id=correlation_id or new_id(),
    )
    with installation.state.lock:
        installation.state.jobs.append(job)
    return job


def end_job(installation: Installation, job: Job, *, succeeded: bool) -> None:
    with installation.state.lock:
        job.status = "finished" if succeeded else "failed"
        job.ended = installation.clock.now()
