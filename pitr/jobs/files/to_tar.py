# SPDX-License-Identifier: GPL-2.0-or-later
"""Write files of a point as a tar archive, with owners and all mode bits.

Each file is read whole before its header is written, so that a damaged file is left out and the archive stays valid.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Final

from pitr.errors import FileSystemError, PitrError
from pitr.guest.filesystem import EntryKind
from pitr.jobs.files.copy_out import CopiedFiles, LeftOutFile, last_part
from pitr.jobs.files.list import Listed, list_files
from pitr.jobs.files.read import read_file
from pitr.jobs.files.volumes import Place
from pitr.reporting import Progress
from pitr.repository.damage import StoredDamage
from pitr.units import MIB

#: Files up to this size, in bytes, are kept in memory while they are read; larger ones in a temporary file.
_IN_MEMORY: Final = 32 * MIB
_NS: Final = 1_000_000_000
_TYPES: Final = {EntryKind.FOLDER: tarfile.DIRTYPE, EntryKind.LINK: tarfile.SYMTYPE}


def write_tar(places: Sequence[Place], output: IO[bytes], progress: Progress | None = None) -> CopiedFiles:
    """Write `places`, and everything below them, to `output`. Holes become zeroes.

    Files that cannot be read are in the result, and the rest is written. Raises OSError from `output`.
    """
    result = CopiedFiles()
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for place in places:
            _TarRun(archive, result, progress).add(place)
    return result


class _TarRun:
    """Writes one place."""

    def __init__(self, archive: tarfile.TarFile, result: CopiedFiles, progress: Progress | None) -> None:
        self._archive = archive
        self._result = result
        self._progress = progress

    def add(self, place: Place) -> None:
        base = last_part(place.path)
        if place.node.kind is EntryKind.FOLDER and base:
            self._entry(place, Listed(place.path, place.node), base)
        try:
            for listed in list_files(place, recursive=True):
                below = listed.path[len(place.path) :].strip("/")
                self._entry(place, listed, "/".join(part for part in (base, below) if part))
        except (FileSystemError, StoredDamage) as error:
            self._leave_out(place.path, error)

    def _entry(self, place: Place, listed: Listed, name: str) -> None:
        node = listed.node
        if node is None or listed.problem is not None:
            self._result.left_out.append(LeftOutFile(listed.path, listed.problem or "it is unreadable"))
            return
        if node.kind not in (EntryKind.FILE, EntryKind.FOLDER, EntryKind.LINK):
            self._result.left_out.append(
                LeftOutFile(listed.path, f"a {node.kind} is not copied", failed=False)
            )
            return
        info = tarfile.TarInfo(name)
        info.type = _TYPES.get(node.kind, tarfile.REGTYPE)
        info.mtime = node.mtime_ns / _NS if node.mtime_ns % _NS else node.mtime_ns // _NS
        info.mode = (
            node.mode if node.mode is not None else (0o755 if node.kind is EntryKind.FOLDER else 0o644)
        )
        info.uid, info.gid = node.uid or 0, node.gid or 0
        try:
            self._write(info, place, listed)
        except (FileSystemError, StoredDamage) as error:
            self._leave_out(listed.path, error)

    def _write(self, info: tarfile.TarInfo, place: Place, listed: Listed) -> None:
        node = listed.node
        if node is None or node.kind is EntryKind.FOLDER:
            self._archive.addfile(info)
            self._result.folders += 1
        elif node.kind is EntryKind.LINK:
            info.linkname = listed.target or ""
            self._archive.addfile(info)
            self._result.links += 1
        else:
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as content:
                for piece in read_file(Place(place.volume, listed.path, node)):
                    content.write(piece)
                self._add_file(info, content)

    def _add_file(self, info: tarfile.TarInfo, content: Any) -> None:
        info.size = content.tell()
        content.seek(0)
        self._archive.addfile(info, content)
        self._result.files += 1
        self._result.bytes += info.size
        self._result.size += info.size
        if self._progress is not None:
            self._progress(self._result.bytes, self._result.bytes)

    def _leave_out(self, path: str, error: PitrError) -> None:
        self._result.left_out.append(LeftOutFile(path, error.message, damage=isinstance(error, StoredDamage)))
