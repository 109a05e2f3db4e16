# SPDX-License-Identifier: GPL-2.0-or-later
"""Create and change a disk's image file on the host while no program uses it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.errors import LabError
from pitr.system.process import run

#: The engine's names of formats, and qemu's.
QEMU_FORMATS = {"cow": "qcow2", "raw": "raw"}


@dataclass(frozen=True, slots=True)
class HostVolume:
    """The image file of a disk. `size` is the disk's size in bytes, `format` is "cow" or "raw"."""

    id: str
    path: Path
    size: int
    format: str
    #: A short name for qemu: node names have at most 31 bytes, but an id has 36.
    node: str

    @property
    def qemu_format(self) -> str:
        return QEMU_FORMATS[self.format]

    @property
    def keeps_bitmaps(self) -> bool:
        """Whether it can store bitmaps, which incremental backups need: only qcow2 can."""
        return self.format == "cow"


def create_image(volume: HostVolume, *, content: Path | None, sparse: bool) -> None:
    """Create the image file, empty or with the bytes of the raw image `content` at its beginning.

    Raises LabError on a size that qemu would round, or when the content is longer than the disk.
    """
    if volume.size <= 0 or volume.size % 512:
        raise LabError(f"a disk cannot have {volume.size} bytes: the size must be a multiple of 512")
    if content is not None and content.stat().st_size > volume.size:
        raise LabError(f"{content} is longer than the disk of {volume.size} bytes")
    options = [] if sparse else ["-o", "preallocation=falloc"]
    run(["qemu-img", "create", "-q", "-f", volume.qemu_format, *options, str(volume.path), str(volume.size)])
    if content is not None:
        command = ["qemu-img", "convert", "-n", "--target-is-zero", "-f", "raw", "-O", volume.qemu_format]
        run([*command, str(content), str(volume.path)])


def copy_image(volume: HostVolume, target: HostVolume) -> None:
    """Copy the data of a volume that no program uses to a new, empty volume, but not its bitmaps."""
    options = ["-n", "--target-is-zero", "-f", volume.qemu_format, "-O", target.qemu_format]
    run(["qemu-img", "convert", *options, str(volume.path), str(target.path)])


def convert_to_raw(source: str, source_format: str, target: Path) -> None:
    """Copy what a guest sees of `source` (a file or an NBD URL) into the new sparse raw file `target`."""
    run(["qemu-img", "convert", "-f", source_format, "-O", "raw", source, str(target)])


def change_bitmap(volume: HostVolume, bitmap: str, actions: Sequence[str]) -> None:
    """Run `qemu-img bitmap` with `actions` (such as ["--add", "--merge", OTHER]), done in their order."""
    run(["qemu-img", "bitmap", "-f", volume.qemu_format, *actions, str(volume.path), bitmap])


def stored_bitmaps(volume: HostVolume) -> set[str]:
    """The names of the usable bitmaps in the image file, also while a server has it open for reading."""
    command = [
        "qemu-img",
        "info",
        "--force-share",
        "--output=json",
        "-f",
        volume.qemu_format,
        str(volume.path),
    ]
    described = json.loads(run(command))
    found = described.get("format-specific", {}).get("data", {}).get("bitmaps", [])
    # A crashed qemu leaves its bitmaps "in use", because they can miss changes.
    return {bitmap["name"] for bitmap in found if "in-use" not in bitmap["flags"]}
