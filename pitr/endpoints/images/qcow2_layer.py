# SPDX-License-Identifier: GPL-2.0-or-later
"""One image of a qcow2 backing chain: the extents that it holds itself, without the images below."""

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
    """An image's header. `backing` is the image below it, in the same folder; `size` is bytes."""

    path: Path
    size: int
    backing: Path | None


def image_info(path: Path) -> ImageInfo:
    """Read the header of an image. The images below stay closed.

    An image names the files that it needs, and qemu would open any path. So pitr accepts only qcow2 images in the
    same folder. Raises UsageError, FormatError and ProgramFailed.
    """
    answer = _json(run(["qemu-img", "info", "--output=json", "-f", "qcow2", str(path.absolute())]), path)
    details = answer.get("format-specific", {}).get("data", {})
    if details.get("data-file") is not None:
        raise UsageError(
            f"{path} stores its data in another file, {details['data-file']!r}: pitr cannot import such an image"
        )
    name, backing = answer.get("backing-filename"), None
    if name is not None:
        backing = path.parent / Path(str(name)).name
        if Path(str(name)).parent not in (Path(), path.parent.absolute()) or not backing.is_file():
            raise UsageError(
                f"{path} is based on {name!r}, which is not in its folder",
                "Move all images of the chain into one folder.",
            )
        if backing.is_symlink() or answer.get("backing-filename-format") != "qcow2":
            raise UsageError(
                f"{path} is based on {name!r}, but its header does not say that this is a qcow2 image"
            )
    return ImageInfo(path, int(answer["virtual-size"]), backing)


class Qcow2LayerSource(Qcow2FileSource):
    """The extents of one image. Ranges that it leaves out are zero when it is `whole`, otherwise unchanged.

    Closing it stops qemu-nbd. Raises FormatError, ProgramMissing, ProgramFailed and NbdError.
    """

    def __init__(self, path: Path, *, whole: bool) -> None:
        mapped = _json(run(["qemu-img", "map", "--output=json", "-f", "qcow2", str(path.absolute())]), path)
        super().__init__(path)
        try:
            self._extents = ExtentMap.of(
                (int(entry["start"]), int(entry["length"]), bool(entry["zero"]) or not entry["data"])
                for entry in mapped
                if whole or (entry["depth"] == 0 and entry["present"])
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
        raise FormatError(f"the output of qemu-img for {path} is not JSON: {error}") from None
