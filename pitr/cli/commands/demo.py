# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.options import Common, with_common
from pitr.errors import ProgramMissing
from pitr.system.target_path import given_path
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.lab.demo import Report

#: The top-level modules of the packages in the extra pitr[lab].
_EXTRA = ("cryptography", "qemu")

KeepOption = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        metavar="FOLDER",
        help="Keep the repository, the disks and the proofs in this new folder.",
        parser=given_path("--keep"),
    ),
]


@with_common()
def demo(common: Common, keep: KeepOption = None) -> None:
    """Run a demo on a local oVirt: backups, a disaster, a restore.

    The local oVirt runs in a temporary folder. pitr compares the restored disks with the originals; if one check
    fails, it exits with 1. The demo needs qemu (Debian:
    qemu-utils, qemu-system-common, e2fsprogs) and the extra pitr[lab].

    Example: pitr demo
    """
    try:
        from pitr.lab.demo import run  # noqa: PLC0415 - needs the extra pitr[lab]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ProgramMissing(
            "the Python packages of the local oVirt are not installed", "Run: pip install 'pitr[lab]'"
        ) from None

    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    report = run(_tell_aside if common.out.json else _tell, keep=keep, columns=columns)
    if common.out.json:
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
    common.out.show(
        "",
        tables.table(
            ("Step", "On disk", "Stored", "Uploaded", "Seconds"),
            (
                (
                    step.command,
                    human_size(step.disk_bytes),
                    _size(step.stored_bytes),
                    _size(step.uploaded_bytes),
                    f"{step.seconds:.1f}",
                )
                for step in report.steps
            ),
            right=("On disk", "Stored", "Uploaded", "Seconds"),
        ),
        f"To replay the backups one after the other, {human_size(report.replayed_bytes)} would have to be uploaded.",
        "",
        *(f"{'proved' if proof.ok else 'FAILED'}  {proof.what}" for proof in report.proofs),
        "",
        f"{'All checks passed' if report.ok else 'SOME CHECKS FAILED'}, in {report.seconds:.0f} s.",
    )


def _size(count: int | None) -> str:
    return "" if count is None else human_size(count)
