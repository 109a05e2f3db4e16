# SPDX-License-Identifier: GPL-2.0-or-later
"""One image of a qcow2 backing chain: what it says of the disk itself, without the images below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pitr.endpoints.images.qcow2_file import Qcow2FileSource
from pitr.errors import FormatError, UsageError
from pitr.extents import ExtentMap
from pitr.system.process import run


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says; `backing` is the image below it, in the same folder."""

    path: Path
    size: int
    backing: Path | None


def image_info(path: Path) -> ImageInfo:
    """Read an image's header; the images below are not opened.

    An image names the files that it needs, and qemu would open whatever that is: they have to be qcow2 images in the
    same folder. Raises UsageError, FormatError and ProgramFailed.
    """
    said = _json(run(["qemu-img", "info", "--output=json", "-f", "qcow2", str(path.absolute())]), path)
    details = said.get("format-specific", {}).get("data", {})
    if details.get("data-file") is not None:
        raise UsageError(
            f"{path} keeps its data in another file, {details['data-file']!r}: that is not imported"
        )
    name, backing = said.get("backing-filename"), None
    if name is not None:
        backing = path.parent / Path(str(name)).name
        if Path(str(name)).parent not in (Path(), path.parent.absolute()) or not backing.is_file():
            raise UsageError(
                f"{path} stands on {name!r}, which is not in its folder",
                "Put all images of the chain into one folder.",
            )
        if backing.is_symlink() or said.get("backing-filename-format") != "qcow2":
            raise UsageError(f"{path} stands on {name!r}, of which it does not say that it is a qcow2 image")
    return ImageInfo(path, int(said["virtual-size"]), backing)


class Qcow2LayerSource(Qcow2FileSource):
    """What one image holds. A `whole` one is read with all that it leaves out as zero; else that is unchanged.

    Closing it stops qemu-nbd. Raises FormatError, ProgramMissing, ProgramFailed and NbdError.
    """

    def __init__(self, path: Path, *, whole: bool) -> None:
        mapped = _json(run(["qemu-img", "map", "--output=json", "-f", "qcow2", str(path.absolute())]), path)
        super().__init__(path)
        try:
            self._extents = ExtentMap.of(
                (int(one["start"]), int(one["length"]), bool(one["zero"]) or not one["data"])
                for one in mapped
                if whole or (one["depth"] == 0 and one["present"])
            ).checked(self.size, whole=whole)
        except BaseException:
            self.close()
            raise

    def extents(self) -> ExtentMap:
        return self._extents.merged()


def _json(text: str, path: Path) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"qemu-img says nothing readable of {path}: {error}") from None
