# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of `pitr restore`, and the target that they choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from pitr.cli.options import choices
from pitr.errors import UsageError
from pitr.jobs.restore.choice import (
    ImageFormat,
    InPlace,
    Placement,
    TargetChoice,
    ToFiles,
    ToNewDisks,
    ToNewVM,
)
from pitr.nbd.client import parse_url
from pitr.system.target_path import format_of_suffix, usable

ToNewDisksOption = Annotated[
    bool, typer.Option("--to-new-disks", help="Restore to new disks on the engine (the default).")
]
ToFileOption = Annotated[
    str | None,
    typer.Option(
        "--to-file",
        metavar="PATH",
        help="Restore to a new image file. If PATH ends in / or there are several disks, it is a folder with a file "
        "for each disk.",
    ),
]
ImageFormatOption = Annotated[
    ImageFormat | None,
    typer.Option(
        "--format",
        metavar=choices(ImageFormat),
        help="Format of the image files. Default: qcow2 if PATH ends in .qcow2, else raw.",
    ),
]
OverwriteDeviceOption = Annotated[
    bool,
    typer.Option(
        "--overwrite-device",
        help="Allow --to-file to overwrite a block device, which must not be in use. All data on it is lost.",
    ),
]
NewDisksDomainOption = Annotated[
    str | None,
    typer.Option(
        "--storage-domain",
        metavar="SD",
        help="Storage domain of the new disks. Default: the domains of the old disks.",
    ),
]
DiskMapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--disk-map",
        metavar="DISK=SD",
        help="Use storage domain SD for this disk, or for all disks that were on the domain DISK; repeatable.",
    ),
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD=NEW",
        help="Give the new disk for the disk OLD the alias NEW; repeatable. Default: the old alias.",
    ),
]
AttachToOption = Annotated[
    str | None, typer.Option("--attach-to", metavar="VM", help="Attach the new disks to this VM.")
]
AsNewVMOption = Annotated[
    str | None,
    typer.Option(
        "--as-new-vm",
        metavar="NAME",
        help="Restore to a new VM with the saved configuration. The VM stays down.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="CLUSTER", help="Cluster of the new VM. Default: the cluster of the old VM."
    ),
]
StartOption = Annotated[bool, typer.Option("--start", help="Start the new VM.")]
NoNetworkOption = Annotated[
    bool,
    typer.Option(
        "--no-network",
        help="Connect the network interfaces of the new VM to no network, so that it can run beside the old VM.",
    ),
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace the disks of the VM, which must be down. The old disks are kept, renamed.",
    ),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Compare the checksum of each restored disk with the repository (always done with --replace).",
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE|-",
        help="Restore one stream of a whole disk, without a repository; - is standard input.",
    ),
]
GetCommandOption = Annotated[
    str | None,
    typer.Option(
        "--get-command",
        metavar="COMMAND",
        help="Command that returns externally stored data: 'vendor-get {stream_id}'. It runs once for each stream.",
    ),
]
ReuseOption = Annotated[
    bool,
    typer.Option(
        "--reuse",
        help="With --to-file: complete an image that exists (an old copy, or a restore that did not end), and write "
        "only what it lacks. PATH can then also be an NBD URL (nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH).",
    ),
]
IncompleteOption = Annotated[
    bool,
    typer.Option(
        "--incomplete",
        help="With --as-new-vm or --replace: accept a point that lacks disks of its VM.",
    ),
]
KeepGoingOption = Annotated[
    bool,
    typer.Option(
        "--keep-going",
        help="Restore the undamaged ranges, list the damaged ones (they read as zero), and exit with 3.",
    ),
]


@dataclass(frozen=True, slots=True)
class NewDiskOptions:
    """The options for disks that a restore creates on the engine."""

    storage_domain: str | None
    disk_map: tuple[str, ...]
    attach_to: str | None
    renames: tuple[str, ...] = ()

    @property
    def any_given(self) -> bool:
        return bool(self.storage_domain or self.attach_to or self.disk_map or self.renames)

    def placement(self) -> Placement:
        """Return the storage domains and aliases. Raises UsageError for a --disk-map or --rename in another form."""
        mapped: dict[str, str] = {}
        for item in self.disk_map:
            old, _, new = item.rpartition("=")
            if not old or not new or mapped.get(old, new) != new:
                raise UsageError(
                    f"--disk-map {item!r} is not DISK=SD",
                    "Write it once for each disk: --disk-map data=fast.",
                )
            mapped[old] = new
        return Placement(self.storage_domain, mapped, self._aliases())

    def _aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = {}
        for item in self.renames:
            # An old alias can contain "=", a new one cannot.
            old, _, new = item.rpartition("=")
            if not old or not new or aliases.get(old, new) != new:
                raise UsageError(
                    f"--rename {item!r} is not OLD=NEW",
                    "Write it once for each disk: --rename 'disk 1=disk_1'.",
                )
            aliases[old] = new
        return aliases


@dataclass(frozen=True, slots=True)
class NewVMOptions:
    """The options for a new VM; without a name they must be unset."""

    name: str | None
    cluster: str | None
    start: bool
    no_network: bool = False

    def check(self) -> None:
        if self.name is None and (self.cluster is not None or self.start or self.no_network):
            raise UsageError("--cluster, --start and --no-network go with --as-new-vm")
        if self.name is not None and not self.name.strip():
            raise UsageError("--as-new-vm needs the name of the new VM")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """The options that choose the target of a restore."""

    to_new_disks: bool
    to_file: str | None
    image_format: ImageFormat | None
    replace: bool
    new_vm: NewVMOptions
    new_disks: NewDiskOptions
    overwrite_device: bool = False
    reuse: bool = False

    def choice(self) -> TargetChoice:
        """Return the chosen target. Raises UsageError for options that do not go together."""
        self._check()
        if self.to_file is not None:
            return self._files(self.to_file)
        placement = self.new_disks.placement()
        if self.new_vm.name is not None:
            new = self.new_vm
            return ToNewVM(self.new_vm.name, placement, new.cluster, new.start, new.no_network)
        if self.replace:
            return InPlace(placement)
        return ToNewDisks(placement, self.new_disks.attach_to)

    def _files(self, path: str) -> ToFiles:
        """Return the image files. The suffix decides the format, unless --format is given or `path` is a folder."""
        files = ToFiles(path, self.image_format or ImageFormat.RAW, self.overwrite_device, self.reuse)
        if files.is_nbd:
            self._check_nbd(files)
            return files
        usable(path, "--to-file")
        promised = None if files.is_folder else format_of_suffix(path)
        if promised is None or promised == self.image_format:
            return files
        if self.image_format is not None:
            raise UsageError(
                f"--format {self.image_format} does not go with the suffix of {path}",
                f"Leave --format out, or name the file {Path(path).with_suffix('.' + self.image_format)}",
            )
        if promised not in tuple(ImageFormat):
            raise UsageError(
                f"pitr cannot write {promised} files, only {' and '.join(ImageFormat)}",
                f"Restore to {Path(path).with_suffix('.qcow2')}, and convert it with 'qemu-img convert'.",
            )
        return replace(files, image_format=ImageFormat(promised))

    def _check_nbd(self, files: ToFiles) -> None:
        parse_url(files.path)
        if not self.reuse:
            raise UsageError(
                "pitr writes to an NBD export only with --reuse, because the export exists already",
                "Add --reuse: pitr overwrites what differs from the point. (A file of this name is ./nbd:…)",
            )
        if files.image_format is not ImageFormat.RAW:
            raise UsageError("--format qcow2 does not go with an NBD export: its server knows the format")

    @property
    def takes_the_whole_vm(self) -> str | None:
        """Return the option that makes a VM of the point; None if the target is files or disks."""
        if self.new_vm.name is not None:
            return "--as-new-vm"
        return "--replace" if self.replace else None

    def _check(self) -> None:
        targets = {
            "--to-file": self.to_file is not None,
            "--to-new-disks": self.to_new_disks,
            "--as-new-vm": self.new_vm.name is not None,
            "--replace": self.replace,
        }
        given = [option for option, is_given in targets.items() if is_given]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other", "Choose one of them.")
        if self.to_file is None and self.image_format is not None:
            raise UsageError("--format goes with --to-file")
        if self.to_file is None and self.overwrite_device:
            raise UsageError("--overwrite-device goes with --to-file")
        if self.to_file is None and self.reuse:
            raise UsageError("--reuse goes with --to-file")
        if self.to_file is not None and self.new_disks.any_given:
            raise UsageError(
                "--storage-domain, --disk-map, --rename and --attach-to go with new disks, not with --to-file"
            )
        if self.new_disks.attach_to is not None and (self.new_vm.name or self.replace):
            raise UsageError("--attach-to goes with --to-new-disks")
        self.new_vm.check()
