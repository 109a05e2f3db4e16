# SPDX-License-Identifier: GPL-2.0-or-later
"""The step of a run that copies the points of its VMs to other sites."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pitr.errors import BusyError, DamageError, Interrupted, PitrError, RepositoryError
from pitr.jobs.policy_run.outcome import StepResult
from pitr.jobs.policy_run.running import Running
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.model import VMName
from pitr.text import counted
from pitr.units import human_size


def replicate_to_sites(run: Running, vms: Sequence[VMName]) -> None:
    """Copy to each site of the policy what it lacks of these VMs. One that fails does not stop the others."""
    for name in run.policy.sites:
        with run.attempt("replicate"):
            _replicate(run, name, vms)
    run.done("replicate")


def _replicate(run: Running, name: str, vms: Sequence[VMName]) -> None:
    started_at = time.monotonic()
    options = ReplicateOptions(vms=vms, dry_run=run.setup.dry_run, workers=run.setup.backup.workers)
    try:
        with run.watch.progress(f"replicate to {name}") as progress:
            done = replicate(
                run.repository, run.setup.sites[name], options, ReplicateWatch(run.watch.notify, progress)
            )
    except Interrupted:
        raise
    except PitrError as error:
        error.message = f"the copy to site {name} failed: {error.message}"
        raise
    verb = "would copy" if run.setup.dry_run else "copied"
    detail = f"{verb} {counted(done.points, 'point')}, {human_size(done.bytes)} to {name}"
    run.add(
        StepResult(
            "replicate",
            error=_failed(name, done),
            detail=detail,
            duration_s=time.monotonic() - started_at,
            damage=tuple(done.damage),
        )
    )


def _failed(name: str, done: Replicated) -> PitrError | None:
    """Return why the site is not complete."""
    if done.damage:
        message = f"damage kept {counted(done.behind, 'point')} from site {name}: {done.damage[0].message}"
        return DamageError(message)
    if done.cold:
        return RepositoryError(
            f"site {name} lacks {counted(done.behind, 'point')}: a cold storage class has "
            f"{counted(done.cold, 'object')} of them",
            "Bring them back with 'pitr warm' first.",
        )
    if done.busy:
        return BusyError(f"site {name} lacks {counted(done.behind, 'point')}: {done.busy[0].message}")
    return None
