# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import ProgramMissing
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.lab.demo import Report

#: The packages of the extra pitr[lab].
_EXTRA = ("cryptography", "qemu")


@with_common()
def demo(
    common: Common,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="FOLDER",
            help="Keep the repository, the disks and the proofs in this new folder.",
        ),
    ] = None,
) -> None:
    """Show the whole story: backups, a disaster, a restore, the proof.

    It happens on a local oVirt, in a temporary folder. Exit code 1 when a proof fails. Needs qemu (Debian:
    qemu-utils, qemu-system-common, e2fsprogs) and the extra pitr[lab].

    Example: pitr demo
    """
    try:
        from pitr.lab.demo import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ProgramMissing(
            "the local oVirt's Python packages are not installed", "Run: pip install 'pitr[lab]'"
        ) from None

    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    report = run(_tell_aside if common.out.json else _tell, keep=keep, columns=columns)
    if common.out.json:
        from dataclasses import asdict

        common.out.document({"demo": {"ok": report.ok, **asdict(report)}})
    else:
        _show(common, report)
    if not report.ok:
        raise typer.Exit(1)


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the story is the result


def _tell_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - with JSON, the story is only progress


def _show(common: Common, report: Report) -> None:
    from pitr.cli.display import tables

    def size(count: int | None) -> str:
        return "" if count is None else human_size(count)

    common.out.show(
        "",
        tables.table(
            ("Step", "On disk", "Stored", "Uploaded", "Seconds"),
            (
                (
                    step.command,
                    human_size(step.disk_bytes),
                    size(step.stored_bytes),
                    size(step.uploaded_bytes),
                    f"{step.seconds:.1f}",
                )
                for step in report.steps
            ),
            right=("On disk", "Stored", "Uploaded", "Seconds"),
        ),
        f"Replaying the backups one after the other would have uploaded {human_size(report.replayed_bytes)}.",
        "",
        *(f"{'proved' if proof.ok else 'FAILED'}  {proof.what}" for proof in report.proofs),
        "",
        f"{'All is proved' if report.ok else 'NOT ALL IS PROVED'}, in {report.seconds:.0f} s.",
    )
