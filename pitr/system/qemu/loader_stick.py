# SPDX-License-Identifier: GPL-2.0-or-later
"""A small USB stick for guests with UEFI, whose entries for boot loaders were in the firmware and are not in a backup.

The firmware first tries the disk, which boots if it has the file \\EFI\\BOOT\\BOOTX64.EFI. Then it starts its shell.
This runs the script on the stick, which starts the first boot loader that it finds at a known place.
"""

from __future__ import annotations

import struct
from typing import Final

#: Folders below \\EFI, and boot loaders in them, in the order in which the script looks for them.
_FOLDERS: Final = (
    *(
        "debian",
        "ubuntu",
        "redhat",
        "centos",
        "rocky",
        "almalinux",
        "fedora",
        "ol",
        "opensuse",
        "sles",
        "sled",
    ),
    *("arch", "GRUB", "systemd", r"Microsoft\Boot"),
)
_LOADERS: Final = ("shimx64", "shim", "grubx64", "systemd-bootx64", "bootmgfw")
_FILE_SYSTEMS: Final = 8

# A floppy disk of 1.44 MB with FAT 12.
_SECTOR: Final = 512
_SECTORS: Final = 2880
_FAT_SECTORS: Final = 9
_ROOT_ENTRIES: Final = 224
_FIRST_OF_JANUARY_1980: Final = 0x0021


def loader_stick() -> bytes:
    """Return the stick's image."""
    return _floppy(b"STARTUP NSH", _script().encode("ascii"))


def _script() -> str:
    lines = [
        "@echo -off",
        f"for %d in {' '.join(f'fs{number}' for number in range(_FILE_SYSTEMS))}",
        r"if exist %d:\EFI then",
        f"for %f in {' '.join(_FOLDERS)}",
        r"if exist %d:\EFI\%f then",
        f"for %l in {' '.join(_LOADERS)}",
        r"if exist %d:\EFI\%f\%l.efi then",
        r"%d:\EFI\%f\%l.efi",
        *("endif", "endfor") * 3,
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _floppy(name: bytes, content: bytes) -> bytes:
    """Return a file system with one file."""
    start = bytearray(_SECTOR)
    start[:11] = b"\xeb\x3c\x90PITR    "
    # One sector in a cluster, one reserved sector, two tables; 18 sectors in a track, two heads.
    shape = (_SECTOR, 1, 1, 2, _ROOT_ENTRIES, _SECTORS, 0xF0, _FAT_SECTORS, 18, 2, 0, 0)
    struct.pack_into("<HBHBHHBHHHII", start, 11, *shape)
    start[38:62] = b"\x29PITRNO NAME    FAT12   "
    start[510:] = b"\x55\xaa"
    folder = bytearray(_ROOT_ENTRIES * 32)
    # A read-only file that begins in the first cluster, number 2.
    struct.pack_into("<11sB12xHHI", folder, 0, name, 0x01, _FIRST_OF_JANUARY_1980, 2, len(content))
    table = _table(-(-len(content) // _SECTOR))
    image: bytes = b"".join((start, table, table, folder, content))
    return image.ljust(_SECTORS * _SECTOR, b"\0")


def _table(clusters: int) -> bytes:
    """Return the allocation table of one file, in entries of 12 bits."""
    entries = [0xFF0, 0xFFF, *range(3, 2 + clusters), 0xFFF]
    bits: int = sum(entry << 12 * place for place, entry in enumerate(entries))
    return bits.to_bytes(_FAT_SECTORS * _SECTOR, "little")
