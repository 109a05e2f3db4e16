# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of `pitr files check`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pitr import times
from pitr.cli.display.files import text
from pitr.cli.display.output import Printer
from pitr.jobs import unusual
from pitr.jobs.files.check import CheckedFiles, SeenFile
from pitr.text import counted, printable

#: Print at most so many paths, and so many problems.
_MOST_LINES = 10


def show(output: Printer, result: CheckedFiles) -> None:
    """Print the result of a check."""
    for path, message in result.seen.problems[:_MOST_LINES]:
        output.notify(f"not checked: {path}: {message}")
    if len(result.seen.problems) > _MOST_LINES:
        output.notify(f"and {len(result.seen.problems) - _MOST_LINES} more; use --output json to list them")
    if output.json:
        output.document(_document(result))
        return
    seen = result.seen
    output.show(
        f"pitr looked at the names of {counted(seen.files, 'file')}, and read a sample of {seen.sampled} of "
        f"{counted(seen.judgeable, 'file')} with a known type."
    )
    output.show(
        f"Content that does not fit the type: {counted(seen.misfit_count, 'file')}, {seen.share:.1%} of the sample"
        f"{_usually(result)}."
    )
    _list(output, seen.misfits, seen.misfit_count)
    output.show(f"Names that ransomware gives: {seen.name_count}.")
    _list(output, seen.named, seen.name_count)
    output.show(f"UNUSUAL: {unusual.words(result.unusual)}" if result.unusual else "The files are as usual.")


def _usually(result: CheckedFiles) -> str:
    if result.check.usual_share is None:
        return ""
    points = counted(len(result.compared), "earlier point")
    return f" (usually {result.check.usual_share:.1%}, from {points})"


def _list(output: Printer, files: Sequence[SeenFile], count: int) -> None:
    for each in files[:_MOST_LINES]:
        output.show(f"  {printable(each.path)}")
    if count > _MOST_LINES:
        output.show(f"  and {count - _MOST_LINES} more")


def _document(result: CheckedFiles) -> dict[str, Any]:
    seen, check = result.seen, result.check
    return {
        "backup_id": result.backup.backup_id,
        "point": times.to_text(result.backup.point),
        "files": seen.files,
        "complete": check.complete,
        "typed_files": seen.judgeable,
        "sample": seen.sampled,
        "misfits": seen.misfit_count,
        "share": round(seen.share, 6),
        "names": seen.name_count,
        "usual_share": round(check.usual_share, 6) if check.usual_share is not None else None,
        "usual_names": check.usual_names,
        "compared_with": [backup.backup_id for backup in result.compared],
        "unusual": [asdict(each) for each in result.unusual],
        "misfit_files": [_file(each) for each in seen.misfits],
        "named_files": [_file(each) for each in seen.named],
        "problems": [{"path": text(path), "message": text(message)} for path, message in seen.problems],
    }


def _file(file: SeenFile) -> dict[str, Any]:
    return {"disk_id": file.disk_id, "volume": text(file.volume), "path": text(file.path)}
