# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy files out of a point, as `cp -r` does. pitr writes nothing outside the destination.

The guest wrote these files, so pitr does not trust them. It checks names, opens each folder in its parent without
following links, creates links last and unchanged, and never creates devices.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pitr.errors import FileSystemError, PitrError, UsageError
from pitr.guest.filesystem import EntryKind, FileContent, FileSystem, Node
from pitr.guest.filesystem.ntfs_links import names_a_drive
from pitr.jobs.files.volumes import CIRCLE, Place
from pitr.reporting import Progress
from pitr.repository.damage import StoredDamage
from pitr.repository.store.naming import Naming
from pitr.system.target_path import refuse_new_device, usable
from pitr.text import printable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255
#: Each level keeps a folder open. A path on Linux has at most 2048 parts.
_DEEPEST = 400
#: The latest time that every file system accepts, in nanoseconds.
_LATEST_NS = (1 << 62) - 1
#: After these errors, the next file would fail as well.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


@dataclass(frozen=True, slots=True)
class LeftOutFile:
    """A file that was not copied, and why. `failed`: this is an error; `damage`: in the repository."""

    path: str
    reason: str
    failed: bool = True
    damage: bool = False


@dataclass(slots=True)
class CopiedFiles:
    """How much was copied, or would be. `bytes` counts the data of the files, `size` their data and holes."""

    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    size: int = 0
    left_out: list[LeftOutFile] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(file.failed for file in self.left_out)

    @property
    def damaged(self) -> bool:
        return any(file.damage for file in self.left_out)


def copy_files(
    places: Sequence[Place],
    target: str,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CopiedFiles:
    """Copy `places` to `target`, or into it if it is a folder, ends with "/", or there are several places.

    pitr skips files that exist, unless `overwrite`. Files that it cannot copy are in the result, and it copies the
    rest. Raises UsageError for an invalid target, PitrError if it cannot write to the target.
    """
    usable(target, "the destination")
    into = len(places) > 1 or target.endswith("/") or Path(target).is_dir()
    if not into and not Path(target).absolute().parent.is_dir():
        raise UsageError(
            f"there is no folder {Path(target).absolute().parent}", "Create it, or name another target."
        )
    if not into and os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} exists already", "Name another target, or add --overwrite.")
    if into and os.path.lexists(target) and not Path(target).is_dir():
        raise UsageError(f"{target} is not a folder", "Name a folder to copy into.")
    if not os.path.lexists(target):
        refuse_new_device(Path(target))
    elif Path(target).is_block_device():
        raise UsageError(f"{target} is a block device", "Name a new file, or a folder to copy into.")
    copying = _CopyRun(overwrite=overwrite, dry_run=dry_run, progress=progress)
    base = Path(target) if into else Path(target).absolute().parent
    try:
        if into and not dry_run:
            base.mkdir(parents=True, exist_ok=True)
        # The path of the target may contain links; nothing below the target may.
        folder = -1 if dry_run else os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PitrError(f"cannot write to {base}: {error.strerror}") from error
    try:
        for place in places:
            name = last_part(place.path) if into else Path(target).name
            copying.copy(place, folder, name)
        copying.make_links(folder)
    finally:
        if folder >= 0:
            os.close(folder)
    return copying.result


def last_part(path: str) -> str:
    """Return the name of the copy in its folder; "" for the root, whose entries are copied instead."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return parts[-1] if parts else ""


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a copy goes: `name` in the open `folder`, which has the path `parents` below the destination.

    `path` is the path of the original, `depth` the number of folders that this copy is nested in.
    """

    folder: int
    name: str
    path: str
    parents: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class _LinkToMake:
    path: str
    parents: tuple[str, ...]
    name: str
    target: str
    mtime_ns: int


class _CopyRun:
    """A copy in progress. In a dry run, the folder descriptor is -1."""

    def __init__(self, *, overwrite: bool, dry_run: bool, progress: Progress | None) -> None:
        self.result = CopiedFiles()
        self._overwrite = overwrite
        self._naming = Naming()
        self._dry_run = dry_run
        self._progress = progress
        self._links: list[_LinkToMake] = []
        self._seen: set[object] = set()
        self._known_size = 0

    def copy(self, place: Place, folder: int, name: str) -> None:
        self._file_system: FileSystem = place.file_system
        self._seen = set()
        if name == "" and place.node.kind is EntryKind.FOLDER:
            self._entries(place.node, folder, place.path, (), 0)
        else:
            self._node(place.node, _Spot(folder, name, place.path, (), 0))

    def make_links(self, base: int) -> None:
        """Create the links last: nothing that pitr writes can go through one."""
        for link in self._links:
            self._trying(link.path, lambda link=link: self._make_link(base, link))  # type: ignore[misc]

    def _leave_out(self, path: str, reason: str, *, failed: bool = True, damage: bool = False) -> None:
        self.result.left_out.append(LeftOutFile(path, reason, failed, damage))

    def _trying(self, path: str, work: Callable[[], None]) -> None:
        """Do `work`. If it fails, add the file to the result and go on; raise PitrError if the disk is full."""
        try:
            work()
        except StoredDamage as error:
            self._leave_out(path, error.message, damage=True)
        except FileSystemError as error:
            self._leave_out(path, error.message)
        except FileExistsError:
            self._leave_out(path, "it exists already")
        except OSError as error:
            if error.errno in _FATAL:
                raise PitrError(
                    f"cannot write the copy of {printable(path)}: {error.strerror}",
                    "All files copied so far are complete. Free some space there, or copy the rest to another place.",
                ) from error
            self._leave_out(path, error.strerror or str(error))

    def _node(self, node: Node, spot: _Spot) -> None:
        path = spot.path
        wrong = _wrong_name(spot.name)
        if wrong:
            self._leave_out(path, wrong)
        elif node.kind is EntryKind.FOLDER:
            self._trying(path, lambda: self._folder(node, spot))
        elif node.kind is EntryKind.FILE:
            self._trying(path, lambda: self._file(node, spot.folder, spot.name))
        elif node.kind is EntryKind.LINK:
            self._trying(path, lambda: self._link(node, spot))
        else:
            self._leave_out(path, f"a {node.kind} is not copied", failed=False)

    def _folder(self, node: Node, spot: _Spot) -> None:
        if node.key in self._seen:
            raise FileSystemError(CIRCLE)
        if spot.depth >= _DEEPEST:
            raise FileSystemError(f"more than {_DEEPEST} nested folders")
        self._seen.add(node.key)
        parents = (*spot.parents, spot.name)
        if self._dry_run:
            self.result.folders += 1
            self._entries(node, -1, spot.path, parents, spot.depth + 1)
            return
        with suppress(FileExistsError):
            os.mkdir(spot.name, 0o700, dir_fd=spot.folder)
        # Do not follow a link: an existing file of this name may be one.
        folder = os.open(spot.name, _FOLDER, dir_fd=spot.folder)
        try:
            self.result.folders += 1
            self._entries(node, folder, spot.path, parents, spot.depth + 1)
            self._set_attributes(folder, node, 0o755)
        finally:
            os.close(folder)

    def _entries(self, node: Node, folder: int, path: str, parents: tuple[str, ...], depth: int) -> None:
        def work() -> None:
            for entry in self._file_system.entries(node):
                inner = f"{path.rstrip('/')}/{entry.name}"
                if entry.node is None:
                    self._leave_out(inner, entry.problem or "it is unreadable")
                else:
                    self._node(entry.node, _Spot(folder, entry.name, inner, parents, depth))

        self._trying(path, work)

    def _file(self, node: Node, folder: int, name: str) -> None:
        content = self._file_system.content(node)
        self._known_size += sum(length for _, length in content.data)
        if self._dry_run:
            self._count(content)
            return
        if not self._overwrite and _exists(name, folder):
            raise FileExistsError
        scratch = f".pitr-{secrets.token_hex(8)}"
        file = os.open(scratch, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            try:
                self._write(file, content)
                self._set_attributes(file, node, 0o644)
            finally:
                os.close(file)
            self._name(scratch, name, folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=folder)
        self._count(content)

    def _write(self, file: int, content: FileContent) -> None:
        for offset, data in self._file_system.pieces(content):
            done = 0
            while done < len(data):
                written = os.pwrite(file, memoryview(data)[done:], offset + done)
                done += written
                self.result.bytes += written
            if self._progress is not None:
                self._progress(self.result.bytes, max(self._known_size, self.result.bytes))
        try:
            os.ftruncate(file, content.size)
        except OverflowError:
            raise FileSystemError(f"its size of {content.size} bytes is too large") from None

    def _name(self, scratch: str, name: str, folder: int) -> None:
        """Rename a complete file to its name."""
        if self._overwrite:
            os.rename(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        self._naming.give(scratch, folder, name, folder)

    def _link(self, node: Node, spot: _Spot) -> None:
        target = self._file_system.target(node)
        if node.mode is None and names_a_drive(target):
            self._leave_out(spot.path, f"a Windows link, to {target}", failed=False)
            return
        if "\0" in target:
            raise FileSystemError("the target of the link is not a path")
        if self._dry_run:
            self.result.links += 1
        else:
            self._links.append(_LinkToMake(spot.path, spot.parents, spot.name, target, node.mtime_ns))

    def _make_link(self, base: int, link: _LinkToMake) -> None:
        folder = os.dup(base)
        try:
            for part in link.parents:
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            scratch = f".pitr-{secrets.token_hex(8)}"
            os.symlink(link.target, scratch, dir_fd=folder)
            try:
                with suppress(OverflowError, OSError):
                    os.utime(scratch, ns=_times(link.mtime_ns), dir_fd=folder, follow_symlinks=False)
                self._name(scratch, link.name, folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=folder)
        finally:
            os.close(folder)
        self.result.links += 1

    def _count(self, content: FileContent) -> None:
        self.result.files += 1
        self.result.size += content.size
        if self._dry_run:
            self.result.bytes += sum(length for _, length in content.data)

    def _set_attributes(self, file: int, node: Node, default_mode: int) -> None:
        """Set the mode, without the bits that make a program run as another user, and the time."""
        os.fchmod(file, node.mode & 0o777 if node.mode is not None else default_mode & ~_umask())
        with suppress(OverflowError):
            os.utime(file, ns=_times(node.mtime_ns))


def _times(mtime_ns: int) -> tuple[int, int]:
    kept = max(-_LATEST_NS, min(_LATEST_NS, mtime_ns))
    return kept, kept


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _wrong_name(name: str) -> str | None:
    """Return why this cannot be the name of a file here, or None."""
    if name in ("", ".", ".."):
        return 'its name is empty, "." or ".."'
    if "/" in name or "\0" in name:
        return 'its name contains "/" or a NUL character'
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "its name is not valid on this system"
    return "its name is too long" if length > _LONGEST_NAME else None
