# SPDX-License-Identifier: GPL-2.0-or-later
"""How files and volumes of a past state are shown, as text and as JSON."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pitr import times
from pitr.cli.display import tables
from pitr.cli.display.output import Printer
from pitr.guest.filesystem import EntryKind, Node
from pitr.text import printable
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.jobs.files.compare import Change
    from pitr.jobs.files.copy_out import CopiedFiles
    from pitr.jobs.files.list import Listed
    from pitr.jobs.files.volumes import GuestVolume, Place
    from pitr.model import Backup

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Files that were left out, one a line: after these nobody reads on.
_MOST_LINES = 20
_LETTERS = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.FOLDER: stat.S_IFDIR,
    EntryKind.LINK: stat.S_IFLNK,
    EntryKind.DEVICE: stat.S_IFBLK,
    EntryKind.PIPE: stat.S_IFIFO,
    EntryKind.SOCKET: stat.S_IFSOCK,
    EntryKind.UNKNOWN: 0,
}


def volumes(output: Printer, backup: Backup, found: Sequence[GuestVolume]) -> None:
    """The volumes of a point's disks."""
    if output.json:
        output.document({**_point(backup), "volumes": [_volume(one) for one in found]})
        return
    output.show(
        tables.table(
            ("Disk", "Volume", "Holds", "Label", "Size", "Note"),
            (
                (
                    one.disk.name,
                    one.name if one.name != "0" else "0 (whole disk)",
                    one.kind or one.content or "",
                    one.label,
                    human_size(one.size),
                    one.problem or one.note or "",
                )
                for one in found
            ),
            right=("Size",),
            drop=("Label",),
            least={"Disk": ("cut", 12), "Label": ("cut", 12), "Note": ("fold", 20)},
        )
    )


def listing(output: Printer, backup: Backup, place: Place, listed: Iterable[Listed], *, full: bool) -> bool:
    """The files of a folder; `full`: with their whole paths. Return whether some could not be looked at."""
    problems = False
    if output.json:
        entries = list(listed)
        output.document({**where(backup, place), "entries": [_listed(one) for one in entries]})
        return any(one.problem for one in entries)
    rows: list[tuple[str, ...]] = []
    for one in listed:
        name = one.path if full else one.path.rpartition("/")[2] or "/"
        problems = problems or one.problem is not None
        rows.append(_row(name, one))
    output.show(
        tables.table(
            ("Mode", "Owner", "Size", "Changed", "Name"),
            rows,
            right=("Size",),
            drop=("Owner", "Mode"),
            least={"Name": ("fold", 24)},
        )
    )
    return problems


def _row(name: str, one: Listed) -> tuple[str, ...]:
    if one.node is None:
        return ("?", "", "", "", f"{name}  (cannot be read: {one.problem})")
    node = one.node
    mode = _LETTERS[node.kind] | (node.mode or 0)
    owner = "" if node.uid is None else f"{node.uid}:{node.gid}"
    size = str(node.size) if node.kind is EntryKind.FILE else ""
    moment = _moment(node.mtime_ns)
    more = f" -> {one.target}" if one.target is not None else f"  ({one.problem})" if one.problem else ""
    more += f"  ({node.unreadable})" if node.unreadable else ""
    shown = stat.filemode(mode) if node.mode is not None else stat.filemode(mode)[0]
    return (shown, owner, size, times.for_people(moment, round_up=False) if moment else "?", f"{name}{more}")


def copied(
    output: Printer, backup: Backup, places: Sequence[Place], target: str, done: CopiedFiles, *, dry_run: bool
) -> None:
    """What a copy has done, or would do."""
    if output.json:
        output.document(
            {
                "dry_run": dry_run,
                "target": target,
                "from": [where(backup, place) for place in places],
                "files": done.files,
                "folders": done.folders,
                "links": done.links,
                "bytes": done.bytes,
                "size": done.size,
                "left_out": [
                    {**asdict(one), "path": text(one.path), "reason": text(one.reason)}
                    for one in done.left_out
                ],
            }
        )
        return
    for one in done.left_out[:_MOST_LINES]:
        output.notify(f"{'not copied' if one.failed else 'left out'}: {one.path}: {one.reason}")
    if len(done.left_out) > _MOST_LINES:
        output.notify(f"and {len(done.left_out) - _MOST_LINES} more, which --output json lists")
    holes = f" ({human_size(done.size)} with their holes)" if done.size != done.bytes else ""
    output.show(
        f"{'Would copy' if dry_run else 'Copied'} {_number(done.files, 'file')}, {_number(done.folders, 'folder')}, "
        f"{_number(done.links, 'link')}, {human_size(done.bytes)}{holes} to {printable(target)}."
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def differences(
    output: Printer, backup: Backup, since: Backup, path: str, changes: Iterable[Change]
) -> tuple[bool, bool]:
    """The changes between two points. Return whether there are any, and whether something could not be compared."""
    any_change = problems = False
    documents: list[dict[str, Any]] = []
    for change in changes:
        problem = change.change == "!"
        problems, any_change = problems or problem, any_change or not problem
        if output.json:
            documents.append(_change(change))
            continue
        what = f"  ({', '.join(change.what)})" if change.what else ""
        folder = "/" if _kind(change) == "folder" and not change.path.endswith("/") else ""
        sys.stdout.write(f"{change.change}  {printable(change.path + folder + what)}\n")
    if output.json:
        output.document(
            {
                **_point(backup),
                "since_backup_id": since.backup_id,
                "since_point": times.to_text(since.point),
                "path": text(path),
                "changes": documents,
            }
        )
    return any_change, problems


def where(backup: Backup, place: Place) -> dict[str, Any]:
    """Which point, disk and volume a path is of."""
    return {
        **_point(backup),
        "disk_id": place.volume.disk.disk_id,
        "volume": text(place.volume.name),
        "path": text(place.path),
    }


def text(name: str) -> str:
    """A name that any program can read: bytes that are no UTF-8 are shown."""
    return name.encode("utf-8", "backslashreplace").decode()


def _point(backup: Backup) -> dict[str, Any]:
    return {"backup_id": backup.backup_id, "point": times.to_text(backup.point)}


def _volume(one: GuestVolume) -> dict[str, Any]:
    return {
        "disk_id": one.disk.disk_id,
        "disk_name": one.disk.name,
        "volume": text(one.name),
        "size": one.size,
        "content": one.kind or one.content,
        "label": text(one.label) or None,
        "readable": one.readable,
        "problem": one.problem,
        "note": one.note,
    }


def _listed(one: Listed) -> dict[str, Any]:
    return {
        "path": text(one.path),
        **_node(one.node),
        "target": text(one.target) if one.target is not None else None,
        "problem": one.problem or (one.node.unreadable if one.node else None),
    }


def _change(change: Change) -> dict[str, Any]:
    problem = change.change == "!"
    return {
        "change": change.change,
        "path": text(change.path),
        "kind": _kind(change),
        "what": [] if problem else list(change.what),
        "problem": "; ".join(change.what) if problem else None,
        "before": _node(change.before) if change.before else None,
        "after": _node(change.after) if change.after else None,
    }


def _kind(change: Change) -> str | None:
    node = change.after or change.before
    return node.kind.value if node else None


def _node(node: Node | None) -> dict[str, Any]:
    if node is None:
        return dict.fromkeys(("kind", "size", "mode", "uid", "gid", "mtime"))
    moment = _moment(node.mtime_ns)
    return {
        "kind": node.kind.value,
        "size": node.size,
        "mode": f"{node.mode:04o}" if node.mode is not None else None,
        "uid": node.uid,
        "gid": node.gid,
        "mtime": times.to_text(moment) if moment else None,
    }


def _moment(mtime_ns: int) -> datetime | None:
    """None for times that no calendar has."""
    try:
        return _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:
        return None
