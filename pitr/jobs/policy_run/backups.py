# SPDX-License-Identifier: GPL-2.0-or-later
"""The backups of a run, with the hooks of each VM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from pitr import times
from pitr.errors import Interrupted, PitrError
from pitr.jobs.backup.full_due import full_is_due
from pitr.jobs.backup.many_vms import Around, Chosen, FleetInterrupted, FleetReports, Outcome, back_up_fleet
from pitr.jobs.backup.one_vm import plan_backup
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.policy_run.choose import ChosenVMs, choose_vms, excluded_disks
from pitr.jobs.policy_run.hooks import Hooks
from pitr.jobs.policy_run.outcome import StepResult
from pitr.jobs.policy_run.policy import Policy
from pitr.jobs.policy_run.running import Running
from pitr.jobs.unusual import Unusual
from pitr.jobs.unusual import words as words_of_unusual
from pitr.model import Backup, Kind, VMName
from pitr.ovirt.engine import Engine, vm_disks
from pitr.reporting import about_vm
from pitr.repository import Repository
from pitr.repository.history import VMOfRun
from pitr.text import counted, printable
from pitr.units import human_size


def back_up_all(run: Running) -> ChosenVMs | None:
    """Back up the VMs of the policy, or plan it in a dry run. Return them; None if the engine could not tell them."""
    chosen: ChosenVMs | None = None
    with run.attempt("backup"), run.setup.connect() as engine:
        chosen = choose_vms(run.repository, engine, run.policy.choice)
        run.expect("backup", [vm.name for vm in chosen.vms])
        for failure in chosen.failures:
            run.add(StepResult("backup", error=failure))
        for outcome in chosen.skipped:
            run.add(_of_outcome(outcome))
        if run.setup.dry_run:
            _plan(run, engine, chosen)
        elif chosen.vms:
            _back_up(run, engine, chosen)
    run.done("backup")
    return chosen


def _plan(run: Running, engine: Engine, chosen: ChosenVMs) -> None:
    around = _PolicyAround(run.policy, run.hooks)
    for vm in chosen.vms:
        with run.attempt("backup", VMName(vm.key, vm.name)):
            options = around.options(run.repository, engine, vm, run.setup.backup)
            plan = plan_backup(run.repository, engine, vm.key, options)
            disks = counted(len(plan.disks), "disk")
            detail = f"{plan.kind}, {disks}{f': {plan.reason}' if plan.reason else ''}"
            run.add(StepResult("backup", VMOfRun(plan.vm_id, plan.vm_name), detail=detail, kind=plan.kind))


def _back_up(run: Running, engine: Engine, chosen: ChosenVMs) -> None:
    around = _PolicyAround(run.policy, run.hooks)
    steps: dict[Chosen, StepResult] = {}

    def finished(outcome: Outcome) -> None:
        # A signal can come at any line: then this is called again.
        run.add(steps.setdefault(outcome.vm, _of_outcome(outcome)))
        for step in around.failed_after(outcome.vm):
            run.add(step)

    with (
        run.watch.progress_each("backup", [vm.name for vm in chosen.vms]) as progress_of,
        run.setup.place(engine) as place,
    ):
        try:
            back_up_fleet(
                run.setup.repository,
                engine,
                chosen.vms,
                run.setup.backup,
                jobs=place.jobs,
                reports=FleetReports(progress_of, run.watch.notify, finished),
                around=around,
                elsewhere=place.elsewhere,
            )
        except FleetInterrupted as interrupt:
            for outcome in interrupt.outcomes:
                finished(outcome)
            raise Interrupted(interrupt.signum) from None


class _PolicyAround(Around):
    """Runs the hooks of each VM, and says how to back it up. Several threads use it."""

    chooses_options = True

    def __init__(self, policy: Policy, hooks: Hooks) -> None:
        self._policy = policy
        self._hooks = hooks
        self._lock = threading.Lock()
        self._failed: list[StepResult] = []

    def before(self, vm: Chosen, stopped: Callable[[], bool]) -> None:
        with about_vm(vm.name):
            self._hooks.run("before_vm", _told(vm), stopped, about=printable(vm.name))

    def options(
        self, repository: Repository, engine: Engine, vm: Chosen, common: BackupOptions
    ) -> BackupOptions:
        every = self._policy.full_every
        full = every is not None and full_is_due(repository.catalog.points(vm.key), every, times.now())
        excluded: tuple[str, ...] = ()
        # A VM without an id is none that the engine has: the backup says so.
        if self._policy.choice.exclude_disks and vm.key != vm.name:
            excluded = excluded_disks(self._policy.choice, vm, vm_disks(engine, vm.key))
        return replace(common, full=full, exclude_disks=excluded)

    def after(self, outcome: Outcome) -> None:
        started_at = time.monotonic()
        try:
            with about_vm(outcome.vm.name):
                self._hooks.run("after_vm", _told_after(outcome), about=printable(outcome.vm.name))
        except Interrupted:
            raise
        except PitrError as error:
            step = StepResult("hook", _vm_of(outcome), error, duration_s=time.monotonic() - started_at)
            with self._lock:
                self._failed.append(step)

    def failed_after(self, vm: Chosen) -> list[StepResult]:
        """Return the failed hooks after the backup of a VM."""
        with self._lock:
            return [step for step in self._failed if step.vm is not None and step.vm.name == vm.name]


def _told(vm: Chosen) -> dict[str, str]:
    return {"PITR_VM": vm.name, "PITR_VM_ID": vm.key if vm.key != vm.name else ""}


def _told_after(outcome: Outcome) -> dict[str, str]:
    told = _told(outcome.vm)
    backup, error = outcome.backup, outcome.error
    if backup is not None:
        told |= {
            "PITR_STATE": "ok",
            "PITR_BACKUP_ID": backup.backup_id,
            "PITR_KIND": backup.kind.value,
            "PITR_STORED_BYTES": str(backup.stored_bytes),
        }
    elif error is None:
        told["PITR_STATE"] = "interrupted"
    else:
        told |= {"PITR_STATE": "skipped" if outcome.skipped else "failed", "PITR_ERROR": error.message}
    return told


def _vm_of(outcome: Outcome) -> VMOfRun:
    backup = outcome.backup
    known = outcome.vm.key if outcome.vm.key != outcome.vm.name else None
    return VMOfRun(backup.vm.id if backup is not None else known, outcome.vm.name)


def _of_outcome(outcome: Outcome) -> StepResult:
    backup, error = outcome.backup, outcome.error
    step = StepResult("backup", _vm_of(outcome), duration_s=outcome.duration_s)
    if backup is not None:
        return replace(
            step,
            detail=_in_words(backup, outcome.facts.unusual),
            backup=backup,
            backup_id=backup.backup_id,
            kind=backup.kind.value,
            unusual=outcome.facts.unusual,
        )
    if outcome.skipped and error is not None:
        return replace(step, skipped=error.message)
    return replace(step, error=error)


def _in_words(backup: Backup, unusual: tuple[Unusual, ...]) -> str:
    words = f"{backup.kind.value}, {counted(len(backup.streams), 'disk')}, {human_size(backup.stored_bytes)} stored"
    if backup.reason:
        words += f" ({'full' if backup.kind is Kind.FULL else 'compared'}: {backup.reason})"
    if backup.missing_disks:
        words += f"; it lacks {', '.join(printable(disk.name) for disk in backup.missing_disks)}"
    if unusual:
        words += f"; unusual: {words_of_unusual(unusual)}"
    return words
