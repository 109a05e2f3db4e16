# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk with a Debian that boots: kernel, busybox, modules and guest agent from the installed packages."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pitr.errors import ProgramFailed
from pitr.system.process import find_program, run
from tests.support.lab import MiB

#: What the guest says on its first serial port once it is up.
MARKER = "debian is up"
_DISK_MIB = 40
#: `make guest` unpacks packages here that are not installed.
_UNPACKED = Path(__file__).parents[2] / ".venv/guest"
_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "syslinux": "syslinux",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "busybox": "busybox-static",
    "qemu-ga": "qemu-guest-agent",
}
_MBR = ("usr/lib/SYSLINUX/mbr.bin", "usr/lib/syslinux/mbr/mbr.bin")
#: For the agent's channel, each after those that it needs. A kernel may contain some of them.
_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
)
#: The UEFI firmware in Debian's package ovmf.
UEFI = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd"))
_QUICK = "quiet nokaslr mitigations=off tsc=reliable random.trust_cpu=on no_timer_check acpi=noirq"
_INIT = f"""#!/bin/busybox sh
busybox mount -t devtmpfs none /dev
for module in /modules/*; do busybox insmod $module; done
busybox mkdir -p /dev/virtio-ports /run /proc /sys
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
for port in /sys/class/virtio-ports/*; do
    busybox ln -s /dev/${{port##*/}} /dev/virtio-ports/$(busybox cat $port/name)
done
qemu-ga --daemonize --pidfile /run/ga.pid --statedir /run
echo '{MARKER}' > /dev/ttyS0
while true; do busybox sleep 1000; done
"""


@dataclass(frozen=True, slots=True)
class _Kernel:
    image: Path
    modules: Path


def missing_qemu() -> list[str]:
    """Return the Debian package of qemu if it is not installed."""
    return [_PACKAGES[name] for name in ("qemu-system-x86_64",) if find_program(name) is None]


def missing() -> list[str]:
    """Return the Debian packages without which the guest cannot be built or run."""
    packages = [package for program, package in _PACKAGES.items() if _found(program) is None]
    return packages + ([] if _kernel() else ["linux-image-cloud-amd64"])


def build(folder: Path) -> Path:
    """Build the disk in the folder, without a network; a BIOS boots it with any of the disks' buses."""
    kernel = _kernel()
    assert kernel is not None
    initramfs = folder / "initrd"
    initramfs.write_bytes(gzip.compress(_cpio(_root(kernel)), 1))
    settings = folder / "syslinux.cfg"
    settings.write_text(
        f"DEFAULT debian\nPROMPT 0\nLABEL debian\nKERNEL vmlinuz\nAPPEND initrd=initrd console=ttyS0 {_QUICK}\n"
    )
    part = folder / "part"
    with part.open("wb") as file:
        file.truncate((_DISK_MIB - 1) * MiB)
    run([_program("mkfs.vfat"), "-F", "16", str(part)])
    for source, name in ((kernel.image, "vmlinuz"), (initramfs, "initrd"), (settings, "syslinux.cfg")):
        run(["mcopy", "-i", str(part), str(source), f"::{name}"])
    run([_program("syslinux"), "--install", str(part)])
    disk = folder / "debian.raw"
    with disk.open("wb") as file:
        file.write(_partitioned())
        file.seek(MiB)
        with part.open("rb") as content:
            shutil.copyfileobj(content, file)
    return disk


def _program(name: str) -> str:
    path = _found(name)
    assert path is not None, name
    return path


def _found(name: str) -> str | None:
    unpacked = (_UNPACKED / folder / name for folder in ("bin", "usr/bin", "sbin", "usr/sbin"))
    return find_program(name) or next((str(path) for path in unpacked if path.is_file()), None)


def _kernel() -> _Kernel | None:
    """Return an installed or unpacked kernel: the one for clouds, if it is there."""
    found = [
        _Kernel(image, modules)
        for root in (_UNPACKED, Path("/"))
        for image in (root / "boot").glob("vmlinuz-*")
        for modules in (root / "lib/modules", root / "usr/lib/modules")
        if (modules / image.name.removeprefix("vmlinuz-")).is_dir() and os.access(image, os.R_OK)
    ]
    return min(found, key=lambda kernel: "cloud" not in kernel.image.name, default=None)


def _partitioned() -> bytes:
    """Return the first sector: the boot loader, and one active partition of FAT 16 behind the first MiB."""
    loaders = (root / name for root in (_UNPACKED, Path("/")) for name in _MBR)
    loader = next(path for path in loaders if path.is_file()).read_bytes()[:440].ljust(446, b"\0")
    start, count = MiB // 512, (_DISK_MIB - 1) * MiB // 512
    entry = b"\x80\xfe\xff\xff\x0e\xfe\xff\xff" + start.to_bytes(4, "little") + count.to_bytes(4, "little")
    return (loader + entry).ljust(510, b"\0") + b"\x55\xaa"


# The root file system


def _root(kernel: _Kernel) -> Iterator[tuple[str, int, bytes]]:
    """Yield path, mode and content of each file of the initramfs."""
    yield "init", 0o100755, _INIT.encode()
    agent = _program("qemu-ga")
    libraries = re.findall(r"(/\S+) \(0x", run(["ldd", agent]))
    programs = {"bin/busybox": _program("busybox"), "usr/bin/qemu-ga": agent}
    with suppress(ProgramFailed):
        # None if it is the static one.
        libraries += re.findall(r"(/\S+) \(0x", run(["ldd", programs["bin/busybox"]]))
    for path, source in (
        *programs.items(),
        *((library.lstrip("/"), library) for library in dict.fromkeys(libraries)),
    ):
        yield path, 0o100755, Path(source).read_bytes()
    folder = kernel.modules / kernel.image.name.removeprefix("vmlinuz-")
    modules = {path.name.partition(".")[0]: path for path in folder.glob("kernel/drivers/**/virtio*.ko*")}
    for number, name in enumerate(_MODULES):
        if (path := modules.get(name)) is not None:
            content = path.read_bytes()
            yield f"modules/{number}", 0o100644, lzma.decompress(content) if path.suffix == ".xz" else content


def _cpio(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return an archive in the format that the kernel reads (newc)."""
    archive = bytearray()
    folders: set[str] = set()

    def add(path: str, mode: int, content: bytes) -> None:
        name = path.encode() + b"\0"
        numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        archive.extend(b"070701" + b"".join(b"%08X" % number for number in numbers) + name)
        archive.extend(b"\0" * (-len(archive) % 4) + content)
        archive.extend(b"\0" * (-len(archive) % 4))

    for path, mode, content in files:
        for parent in [*reversed(Path(path).parents)][1:]:
            if str(parent) not in folders:
                folders.add(str(parent))
                add(str(parent), 0o040755, b"")
        add(path, mode, content)
    add("dev", 0o040755, b"")
    add("proc", 0o040755, b"")
    add("sys", 0o040755, b"")
    add("TRAILER!!!", 0, b"")
    return bytes(archive)
