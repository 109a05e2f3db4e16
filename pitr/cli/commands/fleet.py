# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr fleet`: what many machines need to work together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.fleet_options import TlsOption
from pitr.cli.options import Common, with_common
from pitr.fleet import certificates as made_certificates
from pitr.fleet import connections
from pitr.fleet import scheduler as job
from pitr.fleet.plan import plan_of
from pitr.jobs.backup.choose_vms import VMSelection
from pitr.system.target_path import given_path
from pitr.text import printable

app = typer.Typer(help="Let many machines do the work: scheduler, certificates, plan.", no_args_is_help=True)

ListenArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS", help="Address to listen at: tls://0.0.0.0:8786, or tcp://127.0.0.1:8786."
    ),
]
DashboardOption = Annotated[
    str | None,
    typer.Option(
        "--dashboard",
        metavar="HOST:PORT",
        help="Serve Dask's page for browsers there, without a password. Default: no page.",
    ),
]
CertificatesArgument = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="New folder for the certificates.", parser=given_path("FOLDER")),
]
DaysOption = Annotated[
    int, typer.Option("--days", metavar="N", min=1, max=3650, help="How long the certificates are valid.")
]
PlannedVMsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VM", help="Names or ids. Default: as for 'pitr backup'."),
]
PlannedTagOption = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TAG", help="The VMs with this tag on the engine; repeatable."),
]
PlannedAllOption = Annotated[bool, typer.Option("--all", help="All VMs on the engine.")]


@app.command("scheduler")
@with_common(output=False)
def scheduler(
    common: Common,
    address: ListenArgument = "tcp://127.0.0.1:8786",
    dashboard: DashboardOption = None,
    tls: TlsOption = None,
) -> None:
    """Run a Dask scheduler, which gives the tasks of callers to workers.

    It runs in the foreground until SIGTERM or Ctrl-C, and exits with 0. It needs neither the repository nor the engine,
    and keeps nothing: after a restart, the workers come back by themselves. 'dask scheduler' of the same version works,
    too. Without TLS, it listens on this machine only.

    Examples: pitr fleet scheduler tls://0.0.0.0:8786 --tls /etc/pitr/fleet; pitr fleet scheduler
    """
    checked = connections.checked_address(address)
    connections.require_dask()
    page = connections.checked_dashboard(dashboard) if dashboard is not None else None
    job.serve(checked, connections.security(checked, tls), page, common.out.notify)


@app.command("certificates")
@with_common()
def certificates(common: Common, folder: CertificatesArgument, days: DaysOption = 365) -> None:
    """Make the certificates of a fleet: an authority, and a folder for each role.

    FOLDER/scheduler, FOLDER/worker and FOLDER/caller each have ca.pem, cert.pem and key.pem for --tls. Copy each folder
    to its machines, readable by pitr's user only. Keep FOLDER/ca-key.pem offline: whoever has it can join the fleet.

    Examples: pitr fleet certificates fleet-2026; pitr fleet certificates /srv/fleet --days 90
    """
    folders = made_certificates.make(folder, days)
    if common.out.json:
        common.out.document(
            {
                "authority": str(folder / connections.CA),
                "folders": {each.name: str(each) for each in folders},
                "days": days,
            }
        )
        return
    common.out.show(
        f"Made an authority in {folder}, and certificates for {days} days in "
        f"{', '.join(str(each) for each in folders)}. Keep {folder / made_certificates.AUTHORITY_KEY} offline."
    )


@app.command("plan")
@with_common(engine=True)
def plan(
    common: Common,
    vms: PlannedVMsArgument = None,
    every: PlannedAllOption = False,
    tag: PlannedTagOption = None,
) -> None:
    """List the commands of a run with their hosts, for another program that starts them.

    Each VM's command belongs on the host that the VM runs on, which has the unix socket; the command of a VM that does
    not run may run on any host of its cluster. pitr changes nothing.

    Examples: pitr fleet plan --all --output json; pitr fleet plan web1 web2
    """
    given = VMSelection(tuple(vms or ()), tuple(tag or ()), every)
    selection = VMSelection(common.settings.vms, common.settings.tags) if given.is_empty else given
    with common.repository() as repository, common.engine() as engine:
        planned = plan_of(engine, selection.or_known(repository).on_engine(engine).vms)
    if common.out.json:
        common.out.document({"commands": [each.document for each in planned]})
        return
    common.out.show(
        tables.table(
            ("VM", "Host", "Cluster", "Command"),
            (
                (printable(each.vm.name), each.host_name or "any", each.cluster_name or "", each.text)
                for each in planned
            ),
        )
    )
