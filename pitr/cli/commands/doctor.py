# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.options import Common, StorageDomainOption, with_common
from pitr.jobs.doctor import examine
from pitr.jobs.doctor_check import Check

NoProbeOption = Annotated[
    bool,
    typer.Option(
        "--no-probe",
        help="Skip the data-path check and the trial of the object store; create no disk and no object.",
    ),
]


@with_common(engine=True)
def doctor(
    common: Common, no_probe: NoProbeOption = False, storage_domain: StorageDomainOption = None
) -> None:
    """Check everything that backups and restores need. pitr says how to fix a problem.

    pitr checks programs, configuration, repository, free space, and the engine's certificate, login, clock and
    permissions. To check the data path, it creates a disk of 1 MiB on the engine, writes to it through
    ovirt-imageio, compares the checksum and deletes the disk. If the repository is on S3, pitr repeats the trial of
    'pitr init', measures the store and deletes the objects of the trial. If a check fails, pitr exits with 1.

    Example: pitr doctor --no-probe
    """
    settings = common.settings
    checks = []
    for check in examine(
        settings.files,
        common.location_if_named(),
        common.engine_config,
        probe=not no_probe,
        storage_domain=storage_domain,
        secret_files=common.secret_files(),
    ):
        checks.append(check)
        if not common.out.json:
            _show(common, check)
    ok = all(check.status != "failed" for check in checks)
    if common.out.json:
        common.out.document({"ok": ok, "checks": [check.as_document() for check in checks]})
    else:
        common.out.show("All checks passed." if ok else "Some checks failed.")
    if not ok:
        raise typer.Exit(1)


def _show(common: Common, check: Check) -> None:
    common.out.show(f"{check.status:8} {check.name}: {check.message}")
    if check.advice:
        common.out.show(f"{'':8} -> {check.advice}")
