# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk with a Debian that boots: kernel, busybox, modules and guest agent from the installed packages."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pitr.system.process import find_program, run
from tests.support.lab import MiB

#: What the guest says on its first serial port once it is up.
MARKER = "debian is up"
_DISK_MIB = 40
_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "qemu-ga": "qemu-guest-agent",
    "syslinux": "syslinux",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
}
_MBR = Path("/usr/lib/SYSLINUX/mbr.bin"), Path("/usr/lib/syslinux/mbr/mbr.bin")
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


def missing() -> list[str]:
    """Return the Debian packages without which the guest cannot be built or run."""
    packages = [package for program, package in _PACKAGES.items() if find_program(program) is None]
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
    run(["syslinux", "--install", str(part)])
    disk = folder / "debian.raw"
    with disk.open("wb") as file:
        file.write(_partitioned())
        file.seek(MiB)
        with part.open("rb") as content:
            shutil.copyfileobj(content, file)
    return disk


def _program(name: str) -> str:
    path = find_program(name)
    assert path is not None, name
    return path


def _kernel() -> _Kernel | None:
    """Return the smallest installed kernel: the one for clouds, if it is there."""
    found = [
        _Kernel(image, modules)
        for image in Path("/boot").glob("vmlinuz-*")
        for modules in [Path("/lib/modules") / image.name.removeprefix("vmlinuz-")]
        if (modules / "modules.dep").is_file()
    ]
    return min(found, key=lambda kernel: "cloud" not in kernel.image.name, default=None)


def _partitioned() -> bytes:
    """Return the first sector: the boot loader, and one active partition of FAT 16 behind the first MiB."""
    loader = next(path for path in _MBR if path.is_file()).read_bytes()[:440].ljust(446, b"\0")
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
    for path, source in (*programs.items(), *((library.lstrip("/"), library) for library in libraries)):
        yield path, 0o100755, Path(source).read_bytes()
    for number, module in enumerate(_modules(kernel, "virtio_pci", "virtio_console")):
        yield f"modules/{number:02}", 0o100644, (kernel.modules / module).read_bytes()


def _modules(kernel: _Kernel, *names: str) -> list[str]:
    """Return the paths of the modules, each after those that it needs; none for one that the kernel contains."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[Path(path).name.partition(".")[0].replace("-", "_")] = [*reversed(others.split()), path]
    return list(dict.fromkeys(path for name in names for path in needs.get(name, [])))


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
