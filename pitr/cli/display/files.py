# SPDX-License-Identifier: GPL-2.0-or-later
"""Files and volumes of a point, as text and as JSON."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from pitr import times
from pitr.cli.display import tables
from pitr.cli.display.output import Printer
from pitr.guest.filesystem import EntryKind, Node
from pitr.jobs.files.compare import Change
from pitr.jobs.files.copy_out import CopiedFiles
from pitr.jobs.files.history import FileHistory, FileVersion
from pitr.jobs.files.list import Listed
from pitr.jobs.files.search import FoundFile, FoundFiles
from pitr.jobs.files.volumes import GuestVolume, Place
from pitr.jobs.files.walk import UnreadPoint
from pitr.model import Backup
from pitr.text import counted, printable
from pitr.units import human_size

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Print at most so many files that were left out.
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
    """Print the volumes of a point's disks."""
    if output.json:
        output.document({**_point(backup), "volumes": [_volume(volume) for volume in found]})
        return
    output.show(
        tables.table(
            ("Disk", "Volume", "Holds", "Label", "Size", "Note"),
            (
                (
                    volume.disk.name,
                    volume.name if volume.name != "0" else "0 (whole disk)",
                    volume.kind or volume.content or "",
                    volume.label,
                    human_size(volume.size),
                    volume.problem or volume.note or "",
                )
                for volume in found
            ),
            right=("Size",),
            drop=("Label",),
            least={"Disk": ("cut", 12), "Label": ("cut", 12), "Note": ("fold", 20)},
        )
    )


def listing(output: Printer, backup: Backup, place: Place, listed: Iterable[Listed], *, full: bool) -> bool:
    """Print the files of a folder. Return whether some files could not be read.

    `full`: print whole paths.
    """
    problems = False
    if output.json:
        entries = list(listed)
        output.document({**where(backup, place), "entries": [_listed(entry) for entry in entries]})
        return any(entry.problem for entry in entries)
    rows: list[tuple[str, ...]] = []
    for entry in listed:
        name = entry.path if full else entry.path.rpartition("/")[2] or "/"
        problems = problems or entry.problem is not None
        rows.append(_row(name, entry))
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


def _row(name: str, entry: Listed) -> tuple[str, ...]:
    if entry.node is None:
        return ("?", "", "", "", f"{name}  (cannot be read: {entry.problem})")
    node = entry.node
    mode = _LETTERS[node.kind] | (node.mode or 0)
    owner = "" if node.uid is None else f"{node.uid}:{node.gid}"
    size = str(node.size) if node.kind is EntryKind.FILE else ""
    more = (
        f" -> {entry.target}" if entry.target is not None else f"  ({entry.problem})" if entry.problem else ""
    )
    more += f"  ({node.unreadable})" if node.unreadable else ""
    shown = stat.filemode(mode) if node.mode is not None else stat.filemode(mode)[0]
    return (shown, owner, size, _shown_moment(node), f"{name}{more}")


def copied(
    output: Printer, backup: Backup, places: Sequence[Place], target: str, done: CopiedFiles, *, dry_run: bool
) -> None:
    """Print the result of a copy; `dry_run` means that nothing was copied."""
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
                    {**asdict(left_out), "path": text(left_out.path), "reason": text(left_out.reason)}
                    for left_out in done.left_out
                ],
            }
        )
        return
    for left_out in done.left_out[:_MOST_LINES]:
        state = "not copied" if left_out.failed else "left out"
        output.notify(f"{state}: {left_out.path}: {left_out.reason}")
    if len(done.left_out) > _MOST_LINES:
        output.notify(f"and {len(done.left_out) - _MOST_LINES} more; use --output json to list them")
    holes = f" ({human_size(done.size)} with their holes)" if done.size != done.bytes else ""
    output.show(
        f"{'Would copy' if dry_run else 'Copied'} {counted(done.files, 'file')}, {counted(done.folders, 'folder')}, "
        f"{counted(done.links, 'link')}, {human_size(done.bytes)}{holes} to {printable(target)}."
    )


def history(output: Printer, found: FileHistory) -> None:
    """Print the versions of a file, newest first, and the points that could not be read."""
    _tell_unread(output, found.unread)
    newest_first = found.versions[::-1]
    if output.json:
        output.document(
            {
                "path": text(found.path),
                "versions": [_version(version) for version in newest_first],
                "unread": _unread(found.unread),
            }
        )
        return
    rows = [
        (
            str(version.number),
            times.for_people(version.points[0].point),
            times.for_people(version.points[-1].point),
            str(len(version.points)),
            str(version.node.size),
            _shown_moment(version.node),
            stat.filemode(_LETTERS[version.node.kind] | (version.node.mode or 0)),
            version.digest[:16] if version.digest else "",
        )
        for version in newest_first
    ]
    output.show(
        tables.table(
            ("Version", "First", "Last", "Points", "Size", "Changed", "Mode", "Digest"),
            rows,
            right=("Version", "Points", "Size"),
            drop=("Mode", "Digest"),
        )
    )


def found(output: Printer, pattern: str, files: FoundFiles) -> None:
    """Print the files that a search found, and what could not be searched."""
    _tell_unread(output, files.unread)
    for path, problem in files.problems[:_MOST_LINES]:
        output.notify(f"not searched: {path}: {problem}")
    if output.json:
        output.document(
            {
                "pattern": text(pattern),
                "files": [_found(file) for file in files.files],
                "problems": [
                    {"path": text(path), "message": text(problem)} for path, problem in files.problems
                ],
                "unread": _unread(files.unread),
            }
        )
        return
    rows = [
        (
            str(file.node.size) if file.node.kind is EntryKind.FILE else "",
            _shown_moment(file.node),
            times.for_people(file.points[0].point),
            times.for_people(file.points[-1].point) if len(file.points) > 1 else "",
            f"{file.path}/" if file.node.kind is EntryKind.FOLDER else file.path,
        )
        for file in files.files
    ]
    output.show(
        tables.table(
            ("Size", "Changed", "First point", "Last point", "Path"),
            rows,
            right=("Size",),
            drop=("Last point", "First point"),
            least={"Path": ("fold", 24)},
        )
    )


def _found(file: FoundFile) -> dict[str, Any]:
    disk_id, volume = file.volume
    return {
        "path": text(file.path),
        "disk_id": disk_id,
        "volume": text(volume),
        **_node(file.node),
        "points": [backup.backup_id for backup in file.points],
        "first": times.to_text(file.points[0].point),
        "last": times.to_text(file.points[-1].point),
    }


def _tell_unread(output: Printer, unread: Sequence[UnreadPoint]) -> None:
    for point in unread:
        moment = times.for_people(point.backup.point)
        output.notify(f"not read: point {point.backup.backup_id[:8]} of {moment}: {point.message}")


def _unread(unread: Sequence[UnreadPoint]) -> list[dict[str, Any]]:
    return [
        {"backup_id": point.backup.backup_id, "message": text(point.message), "damaged": point.damaged}
        for point in unread
    ]


def _shown_moment(node: Node) -> str:
    moment = _moment(node.mtime_ns)
    return times.for_people(moment) if moment else "?"


def _version(version: FileVersion) -> dict[str, Any]:
    node = _node(version.node)
    return {
        "number": version.number,
        "points": [backup.backup_id for backup in version.points],
        "first": times.to_text(version.points[0].point),
        "last": times.to_text(version.points[-1].point),
        **{name: node[name] for name in ("kind", "size", "mtime", "mode", "uid", "gid")},
        "digest": version.digest,
    }


def differences(
    output: Printer, backup: Backup, since: Backup, path: str, changes: Iterable[Change]
) -> tuple[bool, bool]:
    """Print the changes between two points. Return whether there are changes, and whether a comparison failed."""
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
    """Return the point, disk, volume and path of a place, for JSON."""
    return {
        **_point(backup),
        "disk_id": place.volume.disk.disk_id,
        "volume": text(place.volume.name),
        "path": text(place.path),
        "incomplete": place.volume.incomplete,
    }


def text(name: str) -> str:
    """Return a name that every program can read: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _point(backup: Backup) -> dict[str, Any]:
    return {"backup_id": backup.backup_id, "point": times.to_text(backup.point)}


def _volume(volume: GuestVolume) -> dict[str, Any]:
    return {
        "disk_id": volume.disk.disk_id,
        "disk_name": volume.disk.name,
        "volume": text(volume.name),
        "size": volume.size,
        "content": volume.kind or volume.content,
        "label": text(volume.label) or None,
        "readable": volume.readable,
        "problem": volume.problem,
        "note": volume.note,
        "incomplete": volume.incomplete,
    }


def _listed(entry: Listed) -> dict[str, Any]:
    return {
        "path": text(entry.path),
        **_node(entry.node),
        "target": text(entry.target) if entry.target is not None else None,
        "problem": entry.problem or (entry.node.unreadable if entry.node else None),
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
    """Return the time in UTC; None if it is out of the calendar's range."""
    try:
        return _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:
        return None
