# SPDX-License-Identifier: GPL-2.0-or-later
"""One image file, alone or of a qcow2 backing chain: the extents that it holds itself, without the images below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pitr.endpoints.images.qcow2_file import Qcow2FileSource
from pitr.errors import BusyError, FormatError, ProgramFailed, UsageError
from pitr.extents import ExtentMap
from pitr.system.process import run

#: The part of qemu's message when another program has the image open for writing.
_IN_USE: Final = 'Failed to get shared "'


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image's header. `backing` is the image below it, in the same folder; `size` is bytes."""

    path: Path
    image_format: str
    size: int
    backing: Path | None
    backing_format: str | None


def image_info(path: Path, image_format: str = "qcow2") -> ImageInfo:
    """Read the header of an image of this format. The images below stay closed.

    An image names the files that it needs, and qemu would open any path. So pitr accepts only qcow2 images, and raw
    ones below them, in the same folder. Raises UsageError, BusyError, FormatError and ProgramFailed.
    """
    answer = _json(_run("info", path, image_format), path)
    details = answer.get("format-specific", {}).get("data", {})
    others = [details.get("data-file"), *(extent.get("filename") for extent in details.get("extents", []))]
    for other in others:
        if other is not None and Path(str(other)).absolute() != path.absolute():
            raise UsageError(
                f"{path} stores its data in another file, {other!r}: pitr cannot import such an image",
                f"Make one file of it: qemu-img convert -f {image_format} -O qcow2 {path.name} NEW.qcow2.",
            )
    name, backing, backing_format = answer.get("backing-filename"), None, None
    if name is not None:
        backing, backing_format = _backing(path, str(name), answer.get("backing-filename-format"))
        if image_format != "qcow2":
            raise UsageError(f"{path} is based on {name!r}: pitr imports only chains of qcow2 images")
    return ImageInfo(path, image_format, int(answer["virtual-size"]), backing, backing_format)


def _backing(path: Path, name: str, image_format: Any) -> tuple[Path, str]:
    """Return the image below `path` and its format, as the header states them. Raises UsageError."""
    backing = path.parent / Path(name).name
    if Path(name).parent not in (Path(), path.parent.absolute()) or not backing.is_file():
        raise UsageError(
            f"{path} is based on {name!r}, which is not in its folder",
            "Move all images of the chain into one folder.",
        )
    if backing.is_symlink() or image_format not in ("qcow2", "raw"):
        raise UsageError(
            f"{path} is based on {name!r}, but its header does not say that this is a qcow2 or a raw image"
        )
    return backing, str(image_format)


class ImageLayerSource(Qcow2FileSource):
    """The extents of one image of this format.

    Ranges that it leaves out are zero when it is `whole`, otherwise unchanged. Closing it stops
    qemu-nbd. Raises BusyError, FormatError, ProgramMissing, ProgramFailed and NbdError.
    """

    def __init__(self, path: Path, image_format: str, *, whole: bool) -> None:
        mapped = _json(_run("map", path, image_format), path)
        super().__init__(path, image_format)
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


def _run(command: str, path: Path, image_format: str) -> str:
    """Return the output of qemu-img info or map. Raises BusyError if another program writes to the image."""
    try:
        return run(["qemu-img", command, "--output=json", "-f", image_format, str(path.absolute())])
    except ProgramFailed as error:
        if _IN_USE not in error.message:
            raise
        raise BusyError(
            f"cannot read {path}: another program, such as a running VM, has the image open for writing",
            "Shut the VM down, or give it a new top image with a snapshot, and import the images below.",
        ) from None


def _json(text: str, path: Path) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the output of qemu-img for {path} is not JSON: {error}") from None
