# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays: qcow2 files over disks that are served, so that a guest can write to a past state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pitr.errors import PitrError, UsageError
from pitr.jobs.file_names import file_names
from pitr.jobs.serve.over_nbd import Served
from pitr.model import Stream
from pitr.system.process import require, run


def overlay_paths(path: str, streams: Sequence[Stream]) -> dict[str, Path]:
    """Where the overlay of each disk goes, by its id: `path` for a single disk, else into the folder `path`.

    Raises UsageError when a file is there already, ProgramMissing without qemu-img.
    """
    require("qemu-img")
    target = Path(path)
    if len(streams) == 1 and not target.is_dir() and not path.endswith("/"):
        paths = {streams[0].disk_id: target}
    elif target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder", "Several disks need a folder: one overlay for each.")
    else:
        paths = {disk_id: target / name for disk_id, name in file_names(streams, ".qcow2").items()}
    for file in paths.values():
        if os.path.lexists(file):
            raise UsageError(
                f"{file} exists already: it may hold what a guest has written",
                f"To go on with it, serve the same point with '--socket {file}.socket', or where 'qemu-img info' says; "
                "else name another file.",
            )
    return paths


def socket_beside(paths: Mapping[str, Path]) -> Path:
    """Where to listen for these overlays when nothing else was asked for; their folder is made.

    An overlay names the socket for good, so it must be one that can be there again.
    """
    first, *others = paths.values()
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PitrError(f"cannot make the folder {first.parent}: {error.strerror}") from error
    return first.with_name("pitr.socket" if others else f"{first.name}.socket")


def make_overlays(paths: Mapping[str, Path], served: Sequence[Served]) -> None:
    """Make the overlays over disks that are being served. Raises UsageError, ProgramFailed; then none is left."""
    made: list[Path] = []
    try:
        for disk in served:
            path = paths[disk.disk_id]
            _reserve(path)
            made.append(path)
            # qemu takes what stands before a colon for a protocol.
            # The name of the export holds the point's id: another point is never taken for it.
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.point_uri]
            run([*command, str(path.absolute())])
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _reserve(path: Path) -> None:
    """Make the empty file: qemu-img would write over one that has come meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise UsageError(f"{path} exists already", "Name another file.") from None
    except OSError as error:
        raise PitrError(f"cannot make {path}: {error.strerror}") from error
