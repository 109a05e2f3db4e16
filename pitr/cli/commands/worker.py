# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.fleet_options import TlsOption, setup_of
from pitr.cli.options import Common, with_common
from pitr.errors import EngineError
from pitr.fleet import connections
from pitr.fleet import worker as job
from pitr.fleet.placement import WorkerPlace
from pitr.ovirt.engine import Engine, cluster_of_host, this_host
from pitr.system import machine, rate_limit

if TYPE_CHECKING:
    from pitr.fleet.tasks import Setup

AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="The scheduler: tls://HOST:8786, or tcp://127.0.0.1:8786.")
]
SlotsOption = Annotated[
    int | None,
    typer.Option(
        "--slots",
        metavar="N",
        min=1,
        max=64,
        help="Number of tasks at the same time. Default: the number of processors.",
    ),
]
HostIdOption = Annotated[
    str | None,
    typer.Option(
        "--host-id",
        metavar="ID",
        help="Id of this machine as a host of the engine. Default: the one in /etc/vdsm/vdsm.id.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ID", help="Id of the host's cluster. Default: the engine tells it."),
]


@with_common(engine=True, moves_data=True)
def worker(
    common: Common,
    address: AddressArgument,
    slots: SlotsOption = None,
    host_id: HostIdOption = None,
    cluster: ClusterOption = None,
    tls: TlsOption = None,
) -> None:
    """Work for a scheduler: do the jobs that callers give it.

    The worker takes the repository and the engine from its own options, environment and configuration; callers send no
    passwords and no keys. On a host of the engine, backups of the host's VMs use the unix socket of ovirt-imageio. It
    runs in the foreground. SIGTERM or Ctrl-C stops its tasks in order and ends it with exit code 0; its child processes
    end with it. If the scheduler is gone, the worker stops its tasks and waits for the scheduler.

    Whoever has a certificate of the fleet can run programs on its workers: docs/fleet.md says how to confine a worker.

    Examples: pitr worker tls://backup.example.com:8786 --tls /etc/pitr/fleet;
    pitr worker tcp://127.0.0.1:8786 --slots 4
    """
    scheduler = connections.checked_address(address)
    connections.require_dask()
    security = connections.security(scheduler, tls)
    rate_limit.share()
    common.repository_location()
    setup = setup_of(common, engine=True)
    place = _place(common, setup, slots, host_id or this_host(), cluster)
    job.serve(setup, place, security, scheduler, common.out.notify)


def _place(
    common: Common, setup: Setup, slots: int | None, host_id: str | None, cluster: str | None
) -> WorkerPlace:
    if host_id is not None and cluster is None and setup.engine is not None:
        try:
            with Engine(setup.engine) as engine:
                cluster = cluster_of_host(engine, host_id)
        except EngineError as error:
            common.out.notify(f"the engine does not tell the cluster of this host: {error.message}")
    return WorkerPlace("", slots or machine.processors(), host_id, cluster)
