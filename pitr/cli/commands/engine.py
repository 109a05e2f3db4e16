# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr engine cleanup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, with_common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pitr.jobs.upkeep.leftovers import Leftover

app = typer.Typer(
    help="Look after what pitr has begun on the engine.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("cleanup")
@with_common(engine=True)
def cleanup(
    common: Common,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="VM", help="Name or id; left out: all VMs of which anything is noted."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be ended; end nothing.")
    ] = False,
) -> None:
    """End what a killed pitr has left open on the engine.

    That is backups and uploads, with their transfers. The next backup of the VM, and the next restore to the engine,
    do that, too. Only what this repository has noted is touched: what another product has begun is not.

    Example: pitr engine cleanup web1 --dry-run
    """
    from pitr.jobs.upkeep import leftovers
    from pitr.jobs.upkeep.uploads import UploadNotes

    with common.repository() as repository, common.engine() as engine:
        notify = common.out.notify
        vms = leftovers.noted_vms(repository) if vm is None else [vm]
        found = leftovers.end_all(repository, engine, vms, dry_run=dry_run, notify=notify)
        uploads = UploadNotes(repository).end_left_behind(engine, dry_run=dry_run, notify=notify)
    _show(common, found, uploads, dry_run)


def _show(common: Common, found: Sequence[Leftover], uploads: Sequence[str], dry_run: bool) -> None:
    if common.out.json:
        common.out.document(
            {
                "dry_run": dry_run,
                "leftovers": [
                    {
                        "vm": {"id": one.vm.id, "name": one.vm.name},
                        "backup_id": one.backup_id,
                        "open": one.is_open,
                    }
                    for one in found
                ],
                "uploads": list(uploads),
            }
        )
        return
    from pitr.cli.display import tables

    for disk_id in uploads:
        common.out.show(
            f"The upload to disk {disk_id} {'is open' if dry_run else 'was ended, the disk is gone'}."
        )
    if not found and not uploads:
        common.out.show("Nothing of pitr's is left on the engine.")
        return
    if not found:
        return
    state = "open" if dry_run else "ended now"
    common.out.show(
        tables.table(
            ("VM", "Backup", "State"),
            ((one.vm.name, one.backup_id, state if one.is_open else "had ended already") for one in found),
            least={"VM": ("cut", 12)},
        )
    )
