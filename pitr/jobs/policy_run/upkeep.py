# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of a run that need no engine: remove old points, verify a share of the data, drill some VMs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pitr import times
from pitr.errors import BusyError, DamageError, PitrError, RepositoryError
from pitr.jobs import point_order, proofs
from pitr.jobs.known_damage import damage_of
from pitr.jobs.policy_run.outcome import StepResult
from pitr.jobs.policy_run.running import Running
from pitr.jobs.policy_run.turns import next_to_drill, share_to_verify
from pitr.jobs.proofs import ReadStream
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.verify.drill import drill
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import VMName
from pitr.repository import drills, findings
from pitr.repository.damage import Damage
from pitr.repository.history import VMOfRun
from pitr.text import counted, printable
from pitr.units import human_size

_SEALED = "the repository is sealed, and no identity is given: drill on a host that has one"


def prune_all(run: Running, vms: Sequence[VMName]) -> None:
    """Remove the points that the policy does not keep, and unreferenced objects."""
    if run.policy.retention.is_empty:
        return
    with run.attempt("prune"):
        started_at = time.monotonic()
        done = prune(
            run.repository,
            run.policy.retention,
            vms,
            dry_run=run.setup.dry_run,
            delete_external=run.setup.delete_external,
            notify=run.watch.notify,
        )
        errors: dict[str | None, PitrError] = {each.vm.id: BusyError(each.message) for each in done.busy}
        errors |= {failed.vm.id if failed.vm is not None else None: failed.error for failed in done.failed}
        for vm in vms:
            run.add(_pruned(run, vm, done, errors.get(vm.id)))
        error = errors.get(None) or _left_outside(run, done)
        detail = (
            f"{_would(run, 'freed', 'would free')} {human_size(done.freed_bytes)}, "
            f"{counted(len(done.unreferenced), 'unreferenced object')}"
        )
        run.add(
            StepResult(
                "prune",
                error=error,
                detail=detail,
                duration_s=time.monotonic() - started_at,
                removed=len(done.removed),
                freed_bytes=done.freed_bytes,
            )
        )
    run.done("prune")


def _pruned(run: Running, vm: VMName, done: Pruned, error: PitrError | None) -> StepResult:
    removed, kept = done.removed.count_of_vm(vm.id), done.kept.count_of_vm(vm.id)
    detail = (
        f"would remove {counted(removed, 'point')} and keep {kept}"
        if run.setup.dry_run
        else f"removed {counted(removed, 'point')}, kept {kept}"
    )
    return StepResult("prune", _of_run(vm), error, detail=detail, removed=removed)


def _left_outside(run: Running, done: Pruned) -> PitrError | None:
    if not done.left_external or run.setup.delete_external is None:
        return None
    return PitrError(
        f"the data of {counted(len(done.left_external), 'external stream')} could not be deleted"
    )


def verify_share(run: Running, vms: Sequence[VMName]) -> None:
    """Read the share of the stored data whose turn it is, and name the damage that is known in the rest."""
    every = run.policy.verify_every
    if every is None:
        return
    with run.attempt("verify"):
        streams = proofs.least_recently_read(run.repository, vms)
        started = run.last.started if run.last is not None else None
        chosen = share_to_verify(streams, every, times.now(), started)
        all_of = Counter(each.backup.vm.id for each in streams)
        by_id = {vm.id: vm for vm in vms}
        # In the order of their first turns.
        by_vm: dict[str, list[ReadStream]] = {}
        for each in chosen:
            by_vm.setdefault(each.backup.vm.id, []).append(each)
        for vm_id, of_vm in by_vm.items():
            # All streams of a VM: then also the indexes of those that are stored externally.
            of_all = len(of_vm) == all_of[vm_id]
            wanted = None if of_all else frozenset(each.stream.stream_id for each in of_vm)
            with run.attempt("verify", by_id[vm_id]):
                if run.setup.dry_run:
                    run.add(_planned(by_id[vm_id], of_vm))
                else:
                    _verify(run, by_id[vm_id], Scope(vm_id=vm_id, streams=wanted))
        if not chosen:
            run.add(StepResult("verify", skipped="the repository holds no data of the policy's VMs"))
        for vm in vms:
            if vm.id not in by_vm:
                _tell_known_damage(run, vm)
    run.done("verify")


def _planned(vm: VMName, streams: Sequence[ReadStream]) -> StepResult:
    size = sum(each.stream.stored_bytes for each in streams)
    detail = f"would read {counted(len(streams), 'stream')}, {human_size(size)}"
    return StepResult("verify", _of_run(vm), detail=detail, read_bytes=size)


def _tell_known_damage(run: Running, vm: VMName) -> None:
    """Fail the step for a VM whose turn is not now, but whose points are known to be damaged."""
    known = damage_of(run.repository, findings.found_in(run.repository.store, vm.id))
    if known:
        run.add(StepResult("verify", _of_run(vm), _damage_in_words(known), damage=tuple(known)))


def _verify(run: Running, vm: VMName, scope: Scope) -> None:
    started_at = time.monotonic()
    with run.watch.progress(f"verify {printable(vm.name)}") as progress:
        done = verify(
            run.repository,
            scope,
            "full",
            workers=run.setup.backup.workers,
            progress=progress,
            notify=run.watch.notify,
        )
    run.add(
        StepResult(
            "verify",
            _of_run(vm),
            _damage_in_words(done.damage),
            detail=f"read {counted(done.streams, 'stream')}, {human_size(done.bytes)}",
            duration_s=time.monotonic() - started_at,
            read_bytes=done.bytes,
            damage=tuple(done.damage),
        )
    )


def _damage_in_words(damage: Sequence[Damage]) -> DamageError | None:
    if not damage:
        return None
    lost = {point for found in damage for point in found.points_lost}
    return DamageError(
        f"damage: {counted(len(damage), 'finding')}, {counted(len(lost), 'point')} lost: {damage[0].message}"
    )


def drill_some(run: Running, vms: Sequence[VMName]) -> None:
    """Drill the newest point of the VMs whose turn it is."""
    if not run.policy.drills:
        return
    if not run.repository.opens:
        run.add(StepResult("drill", skipped=_SEALED))
        run.done("drill")
        return
    with run.attempt("drill"):
        chosen = next_to_drill(run.repository, vms, run.policy.drills)
        for vm in chosen:
            with run.attempt("drill", vm):
                _drill(run, vm)
        if not chosen:
            run.add(StepResult("drill", skipped="the repository holds no point of the policy's VMs"))
    run.done("drill")


def _drill(run: Running, vm: VMName) -> None:
    backup = point_order.newest_first(run.repository.catalog.points(vm.id), times.now())[0]
    step = StepResult("drill", _of_run(vm), backup=backup, backup_id=backup.backup_id)
    point = times.for_people(backup.point)
    if run.setup.dry_run:
        run.add(replace(step, detail=f"would restore the point of {point}"))
        return
    started_at = time.monotonic()
    with run.watch.progress(f"drill {printable(vm.name)}") as progress:
        done = drill(
            run.repository,
            backup,
            backup.streams,
            workers=run.setup.backup.workers,
            progress=progress,
        )
    try:
        drills.add(run.repository.store, done)
    except RepositoryError as error:
        run.watch.notify(f"cannot store the result of the drill: {error.message}")
    failed = [
        f"{printable(disk.name)}: {finding.what}: {finding.message}"
        for disk in done.disks
        for finding in disk.findings
        if finding.ok is False
    ]
    what = f"the drill of the point of {point} failed: {'; '.join(failed)}"
    run.add(
        replace(
            step,
            error=DamageError(what) if failed else None,
            detail=f"restored the point of {point}",
            duration_s=time.monotonic() - started_at,
        )
    )


def _of_run(vm: VMName) -> VMOfRun:
    return VMOfRun(vm.id, vm.name)


def _would(run: Running, done: str, would: str) -> str:
    return would if run.setup.dry_run else done
