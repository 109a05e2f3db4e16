# SPDX-License-Identifier: GPL-2.0-or-later
"""A verification on several workers: each reads a share of the streams, and ranges of the large ones. The results add
up to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Final

from pitr.fleet.backups import RepositoryOfFleet
from pitr.fleet.client import Fleet
from pitr.fleet.placement import Wanted
from pitr.fleet.tasks import BlobRead, FleetTask, Verification
from pitr.fleet.together import Part, places_of, run_together
from pitr.jobs.backup.one_task import told_to
from pitr.jobs.verify.big_blobs import BigBlob, RangeChecked, divided, join
from pitr.jobs.verify.stored_data import Scope, Verified
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, findings
from pitr.system.forked import Call
from pitr.text import printable

#: Each share reads all records, so many shares would cost more than they gain.
_MOST_SHARES: Final = 32


def verify_on(
    fleet: Fleet,
    repository: Repository,
    of: RepositoryOfFleet,
    job: Verification,
    progress: Progress | None,
    notify: Notify,
) -> Verified:
    """Return the result of all workers together. Raises PitrError, Interrupted.

    A quick check, and one that can disprove known damage, is the work of one worker: it needs all streams at once.
    """
    places = places_of(fleet)
    if places < 2 or job.level == "quick" or any(findings.found_in(repository.store, job.vm_id)):
        call = Call(told_to(progress, notify), lambda: False)
        done: Verified = fleet.run(FleetTask(job, of.id, of.wait_lock_s), Wanted(), (), call)
        return done
    with divided(repository, Scope(job.vm_id, job.point(repository)), places) as division:
        blobs, shares = division.blobs, min(_MOST_SHARES, division.shares)
        spread = frozenset(blob.stream.stream_id for blob in blobs)
        of_shares = [Part(replace(job, share=(number, shares), spread=spread)) for number in range(shares)]
        # The digests first: they take the longest.
        digests = [] if job.sample_percent is not None else [_digest(job, blob) for blob in blobs]
        ranges = [part for blob in blobs for part in _ranges(job, blob)]
        results = iter(run_together(fleet, of, [*digests, *of_shares, *ranges], progress, notify))
        of_digests: list[RangeChecked | None] = [next(results) for _ in digests] or [None] * len(blobs)
        added = added_up([next(results) for _ in of_shares])
        for blob, digest in zip(blobs, of_digests, strict=True):
            parts: list[RangeChecked] = [next(results) for _ in blob.ranges]
            join(repository, added, blob, digest, parts, notify)
    return added


def _digest(job: Verification, blob: BigBlob) -> Part:
    name = f"digest of disk {printable(blob.stream.name)}"
    read = BlobRead(name, blob.backup.backup_id, blob.stream.stream_id, None, None, job.workers)
    return Part(read, hidden=True)


def _ranges(job: Verification, blob: BigBlob) -> Iterator[Part]:
    for number, place in enumerate(blob.ranges, 1):
        name = f"range {number} of {len(blob.ranges)} of disk {printable(blob.stream.name)}"
        read = BlobRead(
            name, blob.backup.backup_id, blob.stream.stream_id, place, job.sample_percent, job.workers
        )
        yield Part(read, place.end - place.begin)


def added_up(parts: Sequence[Verified]) -> Verified:
    """Return one result for all streams. Each part has seen all records."""
    added = Verified(parts[0].level, points=max(part.points for part in parts))
    for counted in fields(Verified):
        if counted.name not in ("level", "points", "damage"):
            setattr(added, counted.name, sum(getattr(part, counted.name) for part in parts))
    added.damage = list(dict.fromkeys(damage for part in parts for damage in part.damage))
    return added
