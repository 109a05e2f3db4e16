# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that differ between two points by folder, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from pitr.cli.display import tables
from pitr.cli.display.disk_map import headings
from pitr.cli.display.files import text
from pitr.cli.display.output import Printer
from pitr.jobs.diff.by_folder import ChangedFiles, FilesDiff, Folder
from pitr.model import Backup
from pitr.text import counted, printable
from pitr.units import human_size

#: The table has about so many folders: those that are deeper are joined. Print at most so many problems.
_MOST_ROWS, _MOST_PROBLEMS = 24, 10


def tell(output: Printer, found: FilesDiff) -> None:
    """Print what cannot be compared, and the notes on volumes, on standard error."""
    for volume, note in found.notes:
        output.notify(f"volume {volume}: {note}")
    for path, message in found.problems[:_MOST_PROBLEMS]:
        output.notify(f"not compared: {path}: {message}")
    if len(found.problems) > _MOST_PROBLEMS:
        output.notify(f"and {len(found.problems) - _MOST_PROBLEMS} more; use --output json to list them")


def shown(before: Backup, after: Backup, found: FilesDiff) -> Iterator[RenderableType]:
    """Yield the parts that `pitr diff --files` prints."""
    yield from headings(before, after)
    if not found.folders:
        yield Text("No file differs.")
        return
    joined = found.joined(_MOST_ROWS)
    several = len({(folder.disk_id, folder.volume) for folder in joined}) > 1
    rows = [_row(folder, figures, several) for folder, figures in sorted(joined.items())]
    total = found.total
    yield tables.table(
        ("Folder", "Added", "Removed", "Changed", "Bytes"),
        [*rows, ("All", *_figures(total))],
        right=("Added", "Removed", "Changed", "Bytes"),
        least={"Folder": ("fold", 24)},
    )
    if len(joined) < len(found.folders):
        yield Text(
            f"{counted(len(found.folders), 'folder')} with changes, joined to {len(joined)}; "
            "--output json lists each."
        )


def document(found: FilesDiff) -> dict[str, Any]:
    """Return the document of the files that differ."""
    return {
        **_document(found.total),
        "folders": [
            {
                "disk_id": folder.disk_id,
                "volume": text(folder.volume),
                "path": text(folder.path),
                **_document(figures),
            }
            for folder, figures in sorted(found.folders.items())
        ],
        "incomplete": found.incomplete,
        "problems": [{"path": text(path), "message": text(message)} for path, message in found.problems],
    }


def _document(figures: ChangedFiles) -> dict[str, Any]:
    return {**asdict(figures), "bytes": figures.bytes}


def _row(folder: Folder, figures: ChangedFiles, several: bool) -> tuple[str, ...]:
    where = f"{printable(folder.disk)}, volume {printable(folder.volume)}: " if several else ""
    return (f"{where}{printable(folder.path)}", *_figures(figures))


def _figures(figures: ChangedFiles) -> tuple[str, ...]:
    return (str(figures.added), str(figures.removed), str(figures.changed), human_size(figures.bytes))
