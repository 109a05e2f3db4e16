# SPDX-License-Identifier: GPL-2.0-or-later
"""Create qcow2 overlays over served disks, so that a guest can write to a point."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from pitr.errors import PitrError, UsageError
from pitr.jobs.file_names import file_names
from pitr.jobs.serve.over_nbd import Served
from pitr.model import Stream
from pitr.system.process import require, run
from pitr.system.target_path import format_of_suffix, refuse_new_device, usable


def overlay_paths(
    path: str, streams: Sequence[Stream], option: str = "--overlay", *, may_exist: bool = False
) -> dict[str, Path]:
    """Return the file for each disk's overlay, by disk id: `path` for a single disk, else files in the folder `path`.

    Raises UsageError if a file exists, unless all `may_exist`, ProgramMissing if qemu-img is not installed.
    """
    require("qemu-img")
    target = Path(usable(path, option))
    if len(streams) == 1 and not target.is_dir() and not path.endswith("/"):
        paths = {streams[0].disk_id: target}
    elif target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder", "Name a folder: each disk gets its own overlay.")
    else:
        paths = {disk_id: target / name for disk_id, name in file_names(streams, ".qcow2").items()}
    for file in paths.values():
        if file.is_block_device():
            raise UsageError(f"{file} is a block device: an overlay is a file", "Name a new file.")
        if format_of_suffix(file) not in (None, "qcow2"):
            raise UsageError(
                f"an overlay is a qcow2 file, but {file} has another suffix",
                f"Name it {file.with_suffix('.qcow2')}",
            )
        refuse_new_device(file)
        if os.path.lexists(file) and not (may_exist and all(each.is_file() for each in paths.values())):
            raise UsageError(
                f"{file} exists already: a guest may have written to it",
                f"To continue with it, serve the same point with '--socket {file}.socket', or the one that "
                "'qemu-img info' shows. Otherwise name another file.",
            )
    return paths


def socket_beside(paths: Mapping[str, Path]) -> Path:
    """Return the default socket for these overlays, and create their folder.

    The socket is beside the overlays, because an overlay stores the path of its socket permanently.
    """
    first, *others = paths.values()
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PitrError(f"cannot create the folder {first.parent}: {error.strerror}") from error
    return first.with_name("pitr.socket" if others else f"{first.name}.socket")


def backing_of(path: Path) -> str | None:
    """Return the name of the file under an overlay; None for another file. Raises ProgramFailed."""
    # -U: its lock does not matter here, and qemu takes it itself afterwards.
    described = orjson.loads(run(["qemu-img", "info", "-U", "--output=json", str(path.absolute())]))
    backing = described.get("backing-filename")
    return backing if described.get("format") == "qcow2" and isinstance(backing, str) else None


def make_overlays(paths: Mapping[str, Path], served: Sequence[Served]) -> None:
    """Create the overlays over served disks; on an error remove all of them. Raises UsageError, ProgramFailed."""
    created: list[Path] = []
    try:
        for disk in served:
            path = paths[disk.disk_id]
            _reserve(path)
            created.append(path)
            # The name of the export has the point's id, so the overlay never opens another point.
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.point_uri]
            # An absolute path: qemu-img would take text before a colon for a protocol.
            run([*command, str(path.absolute())])
    except BaseException:
        for path in created:
            path.unlink(missing_ok=True)
        raise


def _reserve(path: Path) -> None:
    """Create an empty file, so that qemu-img cannot overwrite a file that another process creates."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise UsageError(f"{path} exists already", "Name another file.") from None
    except OSError as error:
        raise PitrError(f"cannot create {path}: {error.strerror}") from error
