# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.options import Common, with_common


@with_common(engine=True)
def doctor(
    common: Common,
    no_probe: Annotated[
        bool,
        typer.Option("--no-probe", help="Make no disk on the engine: the way of the data is not looked at."),
    ] = False,
    storage_domain: Annotated[
        str | None,
        typer.Option("--storage-domain", metavar="SD", help="Where the probe's disk goes; left out: any."),
    ] = None,
) -> None:
    """Look at all that backups and restores need. It says what to fix; exit code 1 when something is broken.

    Programs, configuration, repository, free space, the engine's certificate, login, clock and permissions. A probe
    makes a disk of 1 MiB on the engine, writes to it through ovirt-imageio, compares the checksum and deletes it.

    Example: pitr doctor --no-probe
    """
    from pitr.jobs.doctor import examine

    settings = common.settings
    checks = []
    for check in examine(
        settings.files,
        common.repo or settings.repository,
        common.engine_config,
        probe=not no_probe,
        storage_domain=storage_domain,
    ):
        checks.append(check)
        if not common.out.json:
            common.out.show(f"{check.status:8} {check.name}: {check.message}")
            if check.advice:
                common.out.show(f"{'':8} -> {check.advice}")
    ok = all(check.status != "failed" for check in checks)
    if common.out.json:
        from dataclasses import asdict

        common.out.document({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        common.out.show("All that was looked at works." if ok else "Something is broken.")
    if not ok:
        raise typer.Exit(1)
