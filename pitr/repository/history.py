# SPDX-License-Identifier: GPL-2.0-or-later
"""The outcomes of runs, stored beside the points (schema/run.schema.json).

An object's name has the end of the run, the command and the result, so that a search for failures need not read the
others. Each month has its own folder, so that the newest runs are found without a list of all.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from pitr import times
from pitr.errors import FormatError, PitrError
from pitr.model import SealedName
from pitr.repository import canonical, names, sealed
from pitr.repository.store import ObjectMissing, Store
from pitr.version import __version__

FORMAT = 1
#: `pitr prune` removes older outcomes.
KEPT = timedelta(days=400)
_SCHEMA = "run.schema.json"
#: The longest text in an outcome. An engine's message can have any length.
_MAX_TEXT = 8192


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is stored and printed."""

    type: str
    message: str
    advice: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the stored form of an error."""
        if isinstance(error, PitrError):
            return cls(type(error).__name__, error.message[:_MAX_TEXT], error.advice[:_MAX_TEXT])
        return cls(type(error).__name__, f"a defect in pitr: {error}"[:_MAX_TEXT], "")


@dataclass(frozen=True, slots=True)
class VMOfRun:
    """A VM of a run. `id` is None if the run ended before the engine told it."""

    id: str | None
    name: str


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of one step of a run. `ok` is None if the step was skipped or not reached.

    `backup_id` is the point that the step made, read or restored. `detail` is one line for people.
    """

    step: str
    vm: VMOfRun | None
    ok: bool | None
    error: Failure | None = None
    backup_id: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of one run. `policy` is the policy of `pitr run`; `error` is the failure that ended the run."""

    run_id: str
    command: str
    policy: str | None
    started: datetime
    ended: datetime
    exit_code: int
    error: Failure | None
    steps: tuple[StepOutcome, ...]
    host: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def is_about(self, vm: str) -> bool:
        """Return whether a step is about the VM with this id or name."""
        return any(step.vm is not None and vm in (step.vm.id, step.vm.name) for step in self.steps)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A stored outcome, as the name of its object describes it."""

    name: str
    ended: datetime
    command: str
    ok: bool


def add(store: Store, run: RunOutcome) -> None:
    """Store the outcome of a run. Raises RepositoryError."""
    document = {
        "format": FORMAT,
        **asdict(run),
        "started": times.to_text(run.started),
        "ended": times.to_text(run.ended),
        "ok": run.ok,
        "steps": [asdict(step) for step in run.steps],
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    store.create(names.run(run.ended, uuid.uuid4().hex[:8], run.command, ok=run.ok), stored)


def newest_first(store: Store) -> Iterator[StoredRun]:
    """Yield all stored runs, the last one first, without reading them. Raises RepositoryError."""
    for month in sorted(store.folders(names.RUNS), reverse=True):
        listed = (_parsed(name) for name in store.list(f"{names.RUNS}/{month}"))
        yield from sorted((run for run in listed if run), key=lambda run: (run.ended, run.name), reverse=True)


def read(store: Store, run: StoredRun) -> RunOutcome:
    """Read a stored outcome. Raises FormatError for a damaged one, RepositoryError."""
    document = canonical.decode(store.read(run.name, limit=canonical.MAX_SIZE), _SCHEMA)
    hidden = sealed.hides_names(store)
    return RunOutcome(
        run_id=document["run_id"],
        command=document["command"],
        policy=document["policy"],
        started=times.from_text(document["started"]),
        ended=times.from_text(document["ended"]),
        exit_code=document["exit_code"],
        error=_failure(document["error"]),
        steps=tuple(_step(step, hidden=hidden) for step in document["steps"]),
        host=document["host"],
    )


def outcomes(
    store: Store, *, vm: str | None = None, command: str | None = None, failed: bool = False
) -> Iterator[RunOutcome]:
    """Yield the outcomes, the last one first: of one VM (id or name), of one command, of failed runs only.

    Damaged objects are left out. Raises RepositoryError.
    """
    for stored in newest_first(store):
        if (failed and stored.ok) or (command is not None and stored.command != command):
            continue
        try:
            outcome = read(store, stored)
        except (FormatError, ObjectMissing):
            continue  # damaged, or just removed by another process: no point depends on it
        if vm is None or outcome.is_about(vm):
            yield outcome


def last(store: Store, command: str, policy: str | None = None) -> RunOutcome | None:
    """Return the last outcome of a command; with `policy`, of `pitr run` with this policy. Raises RepositoryError."""
    found = outcomes(store, command=command)
    return next((outcome for outcome in found if policy is None or outcome.policy == policy), None)


def remove_before(store: Store, limit: datetime) -> int:
    """Delete the outcomes of runs that ended before `limit`; return their number. Raises RepositoryError."""
    old = [run for run in newest_first(store) if run.ended < limit]
    for run in old:
        store.delete(run.name)
    return len(old)


def _parsed(name: str) -> StoredRun | None:
    base, _, suffix = name.rpartition("/")[2].rpartition(".")
    parts = base.split("-")
    ended = times.from_object_name(parts[0])
    if suffix != "json" or len(parts) != 4 or ended is None or parts[3] not in ("ok", "failed"):
        return None
    return StoredRun(name, ended, parts[2], parts[3] == "ok")


def _failure(document: dict[str, Any] | None) -> Failure | None:
    return Failure(**document) if document is not None else None


def _step(document: dict[str, Any], *, hidden: bool) -> StepOutcome:
    """Return a step. `hidden`: an id stands for a name that is sealed."""
    vm = document["vm"]
    if vm is not None and hidden and vm["id"] == vm["name"]:
        vm = {**vm, "name": SealedName(vm["id"])}
    return StepOutcome(
        step=document["step"],
        vm=VMOfRun(**vm) if vm is not None else None,
        ok=document["ok"],
        error=_failure(document["error"]),
        backup_id=document["backup_id"],
        detail=document["detail"],
    )
