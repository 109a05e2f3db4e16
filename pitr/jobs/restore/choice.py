# SPDX-License-Identifier: GPL-2.0-or-later
"""What you can choose as the target of a restore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class ImageFormat(StrEnum):
    """The format of an image file."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class Placement:
    """The storage domains of new disks, by name or id, and their aliases.

    `disk_map` maps a disk, or the storage domain that disks were on, to a domain; `storage_domain` is for all other
    disks. Without either a disk goes to its old domain, else to the only active data domain. `aliases` maps the name or
    id of a disk to the alias of its new disk; other disks keep their alias.
    """

    storage_domain: str | None = None
    disk_map: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToFiles:
    """Restore to image files. `path` is a folder for several disks, if it is one already, or if it ends in "/".

    It can also be a block device, if `overwrite_device` is set. `reuse`: a file that exists is completed in place; then
    it can also be the URL of an NBD export, which `is_nbd` tells.
    """

    path: str
    image_format: ImageFormat = ImageFormat.RAW
    overwrite_device: bool = False
    reuse: bool = False

    @property
    def is_nbd(self) -> bool:
        """Tell whether `path` is the URL of an NBD export."""
        return self.path.startswith(("nbd:", "nbd+unix:"))

    @property
    def is_folder(self) -> bool:
        """Tell whether `path` is a folder for any number of disks."""
        if self.is_nbd:
            return False
        return self.path.endswith("/") or Path(self.path).is_dir()


@dataclass(frozen=True, slots=True)
class ToNewDisks:
    """Restore to new disks; attach them to the VM `attach_to` (a name or an id), if given."""

    placement: Placement = field(default_factory=Placement)
    attach_to: str | None = None


@dataclass(frozen=True, slots=True)
class ToNewVM:
    """Restore to a new VM `name` with the saved configuration. It stays down unless `start`.

    `cluster` is a name or an id. Without one it is the cluster of the VM, else the saved one, else the only one.
    `no_network`: its network interfaces are connected to no network.
    """

    name: str
    placement: Placement = field(default_factory=Placement)
    cluster: str | None = None
    start: bool = False
    no_network: bool = False


@dataclass(frozen=True, slots=True)
class InPlace:
    """Put the restored disks in place of the VM's own disks, which are kept under other names."""

    placement: Placement = field(default_factory=Placement)


EngineTargetChoice = ToNewDisks | ToNewVM | InPlace
TargetChoice = ToFiles | EngineTargetChoice
