# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr engine cleanup`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.jobs.upkeep import leftovers
from pitr.jobs.upkeep.leftovers import Leftover
from pitr.jobs.upkeep.uploads import UploadNotes

app = typer.Typer(
    help="Clean up pitr's leftovers on the engine.", no_args_is_help=True, rich_markup_mode=None
)

VMArgument = Annotated[
    str | None,
    typer.Argument(metavar="VM", help="Name or id of the VM. Default: all VMs that can have leftovers."),
]


@app.command("cleanup")
@with_common(engine=True)
def cleanup(common: Common, vm: VMArgument = None, dry_run: DryRunOption = False) -> None:
    """Stop the backups and uploads that a crashed pitr left on the engine.

    pitr also closes their transfers. The next backup of the VM and the next restore to the engine do the same. pitr
    touches only backups and uploads that are noted in this repository, never those of another product.

    Example: pitr engine cleanup web1 --dry-run
    """
    with common.repository() as repository, common.engine() as engine:
        notify = common.out.notify
        vms = leftovers.noted_vms(repository) if vm is None else [vm]
        backups = leftovers.end_all(repository, engine, vms, dry_run=dry_run, notify=notify)
        uploads = UploadNotes(repository).end_left_behind(engine, dry_run=dry_run, notify=notify)
    _show(common, backups, uploads, dry_run)


def _show(common: Common, backups: Sequence[Leftover], uploads: Sequence[str], dry_run: bool) -> None:
    if common.out.json:
        common.out.document(
            {
                "dry_run": dry_run,
                "leftovers": [
                    {
                        "vm": {"id": leftover.vm.id, "name": leftover.vm.name},
                        "backup_id": leftover.backup_id,
                        "open": leftover.is_open,
                    }
                    for leftover in backups
                ],
                "uploads": list(uploads),
            }
        )
        return
    for disk_id in uploads:
        state = "is open" if dry_run else "was cancelled, and the disk was deleted"
        common.out.show(f"The upload to disk {disk_id} {state}.")
    if not backups and not uploads:
        common.out.show("pitr has no leftovers on the engine.")
    if backups:
        open_state = "open" if dry_run else "stopped now"
        common.out.show(
            tables.table(
                ("VM", "Backup", "State"),
                (
                    (
                        leftover.vm.name,
                        leftover.backup_id,
                        open_state if leftover.is_open else "already stopped",
                    )
                    for leftover in backups
                ),
                least={"VM": ("cut", 12)},
            )
        )
