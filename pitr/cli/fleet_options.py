# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of commands whose work a fleet of workers can do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.cli import repository_location
from pitr.cli.options import Common
from pitr.errors import UsageError
from pitr.reporting import Progress
from pitr.system import rate_limit
from pitr.system.target_path import given_path

if TYPE_CHECKING:
    from pitr.fleet.client import Fleet
    from pitr.fleet.points import Watched
    from pitr.fleet.tasks import Job, Setup
    from pitr.jobs.backup.one_task import PlaceOfBackups
    from pitr.ovirt.engine import Engine
    from pitr.repository import Repository
    from pitr.repository.location import Location
    from pitr.system.forked import Template

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let the workers of this Dask scheduler do the work: tls://HOST:8786 (docs/fleet.md).",
    ),
]
TlsOption = Annotated[
    Path | None,
    typer.Option(
        "--tls",
        metavar="FOLDER",
        envvar="PITR_FLEET_TLS",
        help="Folder with ca.pem, cert.pem and key.pem for tls:// ('pitr fleet certificates').",
        parser=given_path("--tls"),
    ),
]
CapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cap",
        metavar="NAME=N",
        help="With --scheduler: at most N backups at the same time on each host, storage-domain, engine or repository; "
        "repeatable. All callers of the scheduler share the limit.",
    ),
]


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """Which scheduler, with which certificates and limits; without a scheduler, this machine works."""

    scheduler: str | None = None
    tls: Path | None = None
    caps: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UsageError for options that exclude each other, ProgramMissing without Dask."""
        if self.scheduler is None:
            if self.caps:
                raise UsageError("--cap goes with --scheduler")
            return
        from pitr.fleet import caps, connections  # noqa: PLC0415 - most commands need no fleet

        connections.checked_address(self.scheduler)
        caps.parse(self.caps)
        connections.require_dask()
        if rate_limit.is_limited():
            raise UsageError(
                "a limit of the rate does not go with --scheduler",
                "Start the workers with --limit-rate, or limit the backups at the same time with --cap.",
            )

    def refuse_pipe(self, output: str | None) -> None:
        """Raise UsageError for an output that only this machine has."""
        if self.scheduler is not None and output is not None:
            raise UsageError(
                "--to and --put-command do not go with --scheduler",
                "Leave out --scheduler, or put_command in the configuration.",
            )

    @contextmanager
    def opened(self, common: Common, alone: int, *, engine: bool) -> Iterator[Fleet | None]:
        """Connect to the scheduler while the block runs; None without one. Raises PitrError, UsageError.

        `engine`: this process may have to do tasks that need the engine.
        """
        if self.scheduler is None:
            yield None
            return
        self.check()
        from pitr.fleet import connections  # noqa: PLC0415
        from pitr.fleet.client import Fleet  # noqa: PLC0415

        address = connections.checked_address(self.scheduler)
        security = connections.security(address, self.tls)
        setup = setup_of(common, engine=engine)
        with Fleet(address, security, setup, alone=alone, notify=common.out.notify) as fleet:
            if fleet.dashboard is not None:
                common.out.notify(f"dashboard of the scheduler: {fleet.dashboard}")
            yield fleet

    @contextmanager
    def place(
        self,
        common: Common,
        template: Template | None,
        jobs: int | None,
        location: Location,
        engine: Engine,
    ) -> Iterator[PlaceOfBackups]:
        """Return where backups run: on the workers, in processes that `template` starts, or (None) in this one.

        `jobs`: so many at the same time; by default the slots of all workers, or 1.
        """
        # Other commands with these options need neither the engine nor arrays.
        from pitr.jobs.backup.one_task import PlaceOfBackups  # noqa: PLC0415
        from pitr.jobs.backup.processes import processes_of  # noqa: PLC0415

        if self.scheduler is None:
            with processes_of(template, jobs or 1, location, engine) as processes:
                yield PlaceOfBackups(processes, jobs or 1)
            return
        from pitr.fleet import caps  # noqa: PLC0415 - most commands need no fleet
        from pitr.fleet.backups import FleetBackups, RepositoryOfFleet  # noqa: PLC0415
        from pitr.repository import Repository, lock  # noqa: PLC0415

        with Repository.open(location) as repository:
            to = RepositoryOfFleet(repository.id, lock.patience_s())
        with self.opened(common, common.settings.jobs or 1, engine=True) as fleet:
            if fleet is None:
                raise AssertionError("there is a scheduler")
            backups = FleetBackups(fleet, engine, to, caps.parse(self.caps))
            yield PlaceOfBackups(backups, jobs or max(1, fleet.slots))

    @contextmanager
    def watched(
        self, common: Common, repository: Repository, workers: int, progress: Progress | None
    ) -> Iterator[Watched | None]:
        """Return the workers of the fleet for ranges of disks; None without a scheduler or a worker."""
        with self.opened(common, 1, engine=False) as fleet:
            if fleet is None or not fleet.workers():
                yield None
                return
            from pitr.fleet.backups import RepositoryOfFleet  # noqa: PLC0415
            from pitr.fleet.points import Watched  # noqa: PLC0415
            from pitr.repository import lock  # noqa: PLC0415

            of = RepositoryOfFleet(repository.id, lock.patience_s())
            yield Watched(fleet, of, workers, progress, common.out.notify)

    def done(self, common: Common, repository: Repository, job: Job, progress: Progress | None) -> Any:
        """Return the result of the job of a worker; None without a scheduler or a worker: this process does it."""
        with self.opened(common, 1, engine=False) as fleet:
            if fleet is None or not fleet.workers():
                return None
            from pitr.fleet.placement import Wanted  # noqa: PLC0415
            from pitr.fleet.tasks import FleetTask, Verification  # noqa: PLC0415
            from pitr.jobs.backup.one_task import told_to  # noqa: PLC0415
            from pitr.repository import lock  # noqa: PLC0415
            from pitr.system.forked import Call  # noqa: PLC0415

            if isinstance(job, Verification):
                from pitr.fleet.backups import RepositoryOfFleet  # noqa: PLC0415
                from pitr.fleet.verifications import verify_on  # noqa: PLC0415

                of = RepositoryOfFleet(repository.id, lock.patience_s())
                return verify_on(fleet, repository, of, job, progress, common.out.notify)
            task = FleetTask(job, repository.id, lock.patience_s())
            call = Call(told_to(progress, common.out.notify), lambda: False)
            return fleet.run(task, Wanted(), (), call)


def setup_of(common: Common, *, engine: bool) -> Setup:
    """Return what a worker takes from its own settings. Raises UsageError."""
    from pitr.fleet.tasks import Setup  # noqa: PLC0415

    return Setup(
        common.location_if_named(),
        common.engine_config() if engine and common.names_engine else None,
        lambda text: common.reachable(repository_location.parsed(text)),
        socket.gethostname(),
    )
