# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy files out of a past state, as `cp -r` would: nothing is written outside of the destination.

What is copied was written by the guest. So names are checked, every folder is opened from its parent without
following links, links are made as they are and only when all else is there, and devices are never made.
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
from pitr.jobs.files.volumes import Place
from pitr.reporting import Progress
from pitr.repository.damage import StoredDamage
from pitr.repository.store.naming import Naming
from pitr.text import printable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255
#: Each level holds an open folder; a path of Linux has at most 2048 parts.
_DEEPEST = 400
#: The longest seconds that every file system takes.
_LATEST_NS = (1 << 62) - 1
#: After these the next file would not do better.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


@dataclass(frozen=True, slots=True)
class LeftOutFile:
    """A file that was not copied, and why. `failed`: it should have been; `damage`: the repository's fault."""

    path: str
    reason: str
    failed: bool = True
    damage: bool = False


@dataclass(slots=True)
class CopiedFiles:
    """What was copied, or would be; `bytes` is what the files hold without their holes, `size` with them."""

    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    size: int = 0
    left_out: list[LeftOutFile] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(one.failed for one in self.left_out)

    @property
    def damaged(self) -> bool:
        return any(one.damage for one in self.left_out)


def copy_files(
    places: Sequence[Place],
    target: str,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CopiedFiles:
    """Copy `places` to `target` as `cp -r` does: into it when it is a folder, ends in "/", or several are copied.

    A file that exists is left out unless `overwrite`. What cannot be copied is listed, and the rest is. Raises
    UsageError for a target that cannot be, PitrError when it cannot be written.
    """
    into = len(places) > 1 or target.endswith("/") or Path(target).is_dir()
    if not into and not Path(target).absolute().parent.is_dir():
        raise UsageError(
            f"there is no folder {Path(target).absolute().parent}", "Make it, or name another target."
        )
    if not into and os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} exists already", "Name another target, or allow --overwrite.")
    if into and os.path.lexists(target) and not Path(target).is_dir():
        raise UsageError(f"{target} is not a folder", "Name a folder to copy into.")
    work = _Copy(overwrite=overwrite, dry_run=dry_run, progress=progress)
    base = Path(target) if into else Path(target).absolute().parent
    try:
        if into and not dry_run:
            base.mkdir(parents=True, exist_ok=True)
        # The folder that was named may be reached through links; nothing below it is.
        folder = -1 if dry_run else os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PitrError(f"cannot write to {base}: {error.strerror}") from error
    try:
        for place in places:
            name = _last_part(place.path) if into else Path(target).name
            work.copy(place, folder, name)
        work.make_links(folder)
    finally:
        if folder >= 0:
            os.close(folder)
    return work.result


def _last_part(path: str) -> str:
    """The name that a copy gets in a folder; "" for the root, whose entries go there themselves."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return parts[-1] if parts else ""


@dataclass(frozen=True, slots=True)
class _LinkToMake:
    path: str
    parents: tuple[str, ...]
    name: str
    target: str
    mtime_ns: int


class _Copy:
    """One copy in progress. A folder descriptor of -1 stands for one that a dry run does not make."""

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
            self._one(place.node, folder, name, place.path, (), 0)

    def make_links(self, base: int) -> None:
        """Make the links that were found. Now nothing is written any more that could go through one."""
        for link in self._links:
            self._trying(link.path, lambda link=link: self._make_link(base, link))  # type: ignore[misc]

    def _leave_out(self, path: str, reason: str, *, failed: bool = True, damage: bool = False) -> None:
        self.result.left_out.append(LeftOutFile(path, reason, failed, damage))

    def _trying(self, path: str, work: Callable[[], None]) -> None:
        """Do `work`; when it cannot be done, say so and go on. A full disk ends everything."""
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
                    "What was copied before is whole. Copy the rest to another place, or make room there.",
                ) from error
            self._leave_out(path, error.strerror or str(error))

    def _one(
        self, node: Node, folder: int, name: str, path: str, parents: tuple[str, ...], depth: int
    ) -> None:
        wrong = _wrong_name(name)
        if wrong:
            self._leave_out(path, wrong)
        elif node.kind is EntryKind.FOLDER:
            self._trying(path, lambda: self._folder(node, folder, name, path, parents, depth))
        elif node.kind is EntryKind.FILE:
            self._trying(path, lambda: self._file(node, folder, name))
        elif node.kind is EntryKind.LINK:
            self._trying(path, lambda: self._link(node, name, path, parents))
        else:
            self._leave_out(path, f"a {node.kind} is not copied", failed=False)

    def _folder(
        self, node: Node, parent: int, name: str, path: str, parents: tuple[str, ...], depth: int
    ) -> None:
        if node.key in self._seen:
            raise FileSystemError("this folder was here before: the file system goes in a circle")
        if depth >= _DEEPEST:
            raise FileSystemError(f"more than {_DEEPEST} folders are in each other")
        self._seen.add(node.key)
        if self._dry_run:
            self.result.folders += 1
            self._entries(node, -1, path, (*parents, name), depth + 1)
            return
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        # Not a link: what exists already may be one.
        made = os.open(name, _FOLDER, dir_fd=parent)
        try:
            self.result.folders += 1
            self._entries(node, made, path, (*parents, name), depth + 1)
            self._dress(made, node, 0o755)
        finally:
            os.close(made)

    def _entries(self, node: Node, folder: int, path: str, parents: tuple[str, ...], depth: int) -> None:
        def work() -> None:
            for entry in self._file_system.entries(node):
                inner = f"{path.rstrip('/')}/{entry.name}"
                if entry.node is None:
                    self._leave_out(inner, entry.problem or "it cannot be read")
                else:
                    self._one(entry.node, folder, entry.name, inner, parents, depth)

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
                self._dress(file, node, 0o644)
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
            raise FileSystemError(f"a file of {content.size} bytes") from None

    def _name(self, scratch: str, name: str, folder: int) -> None:
        """Give a whole file its name."""
        if self._overwrite:
            os.rename(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        self._naming.give(scratch, folder, name, folder)

    def _link(self, node: Node, name: str, path: str, parents: tuple[str, ...]) -> None:
        target = self._file_system.target(node)
        if node.mode is None:
            self._leave_out(path, f"a link of Windows, to {target}", failed=False)
            return
        if "\0" in target:
            raise FileSystemError("a link whose target is no path")
        if self._dry_run:
            self.result.links += 1
        else:
            self._links.append(_LinkToMake(path, parents, name, target, node.mtime_ns))

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

    def _dress(self, file: int, node: Node, without: int) -> None:
        """Give the mode, without what would make it run as another user, and the time."""
        os.fchmod(file, node.mode & 0o777 if node.mode is not None else without & ~_umask())
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
    """Why a name cannot be one of a file here."""
    if name in ("", ".", ".."):
        return "its name is none"
    if "/" in name or "\0" in name:
        return "its name would lead elsewhere"
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "its name cannot be written here"
    return "its name is too long" if length > _LONGEST_NAME else None
