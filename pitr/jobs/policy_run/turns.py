# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is tonight: the streams to verify, and the VMs to drill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pitr.jobs.proofs import ReadStream
from pitr.model import VMName
from pitr.repository import Repository, drills, history

#: A run counts as one night, however soon it follows the last one.
NIGHT: Final = timedelta(days=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def share_to_verify(
    streams: Sequence[ReadStream], every: timedelta, now: datetime, last_run: datetime | None
) -> list[ReadStream]:
    """Return the streams to read now, so that each is read once within `every`.

    `streams` come in the order of their turns: those that were never read, then the longest unread. The share is that
    of the time since the last run, at least of a night, in stored bytes. It ends with the stream that completes it. As
    the streams that were never read are at most all, each waits for at most `every`. Streams that would be read too
    late at the next run are added.
    """
    interval = max(NIGHT, now - last_run) if last_run is not None else NIGHT
    share = min(1.0, interval / every) * sum(each.stream.stored_bytes for each in streams)
    chosen: list[ReadStream] = []
    taken = 0
    for each in streams:
        late = each.read is not None and each.read + every <= now + interval
        # A stream without stored bytes of its own costs nothing.
        if taken < share or late or not each.stream.stored_bytes:
            chosen.append(each)
            taken += each.stream.stored_bytes
    return chosen


def next_to_drill(repository: Repository, vms: Iterable[VMName], count: int) -> list[VMName]:
    """Return the VMs to drill now: those never drilled, then those whose last drill is oldest. Raises RepositoryError.

    All of them have points. The history knows drills of points that are removed since.
    """
    vms = list(vms)
    last = {vm.id: _last_drill(repository, vm) for vm in vms}
    missing = set(last)
    for run in history.outcomes(repository.store):
        for step in run.steps:
            vm_id = step.vm.id if step.vm is not None else None
            if step.step == "drill" and step.ok is not None and vm_id in missing:
                missing.discard(vm_id)
                last[vm_id] = max(last[vm_id], run.ended)
        if not missing:
            break
    return sorted(vms, key=lambda vm: (last[vm.id], vm.name))[:count]


def _last_drill(repository: Repository, vm: VMName) -> datetime:
    return max((each.time for each in drills.last_proven(repository.store, vm.id).values()), default=_NEVER)
