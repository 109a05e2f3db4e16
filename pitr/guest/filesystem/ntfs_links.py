# SPDX-License-Identifier: GPL-2.0-or-later
"""The links of NTFS: of Windows, of its subsystem for Linux, and of ntfs-3g.

Windows and its subsystem store links as reparse points ([MS-FSCC] 2.1.2). ntfs-3g stores them as system files, as
Interix did (libntfs-3g/reparse.c and ntfs_create in libntfs-3g/dir.c).
"""

from __future__ import annotations

import re
from typing import Any, Final

SYMBOLIC_LINK: Final = 0xA000000C
JUNCTION: Final = 0xA0000003
LINUX_LINK: Final = 0xA000001D
#: The reparse tags of links.
TAGS: Final = frozenset({SYMBOLIC_LINK, JUNCTION, LINUX_LINK})
#: A system file that begins with this is a link; its target follows in UTF-16.
INTERIX_MAGIC: Final = b"IntxLNK\1"
#: ntfs-3g reads no longer ones.
INTERIX_LONGEST: Final = 8 + 2 * 4096

_NT_PREFIX: Final = "\\??\\"
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


def reparse_target(attribute: Any) -> str:
    """Return the target of a reparse point: with slashes if it is relative, "C:\\\\Users" if it names a drive."""
    if int(attribute.tag) == LINUX_LINK:
        # The version, then the target without an end mark.
        return bytes(attribute.buffer[4:]).decode(errors="surrogateescape")
    target = str(attribute.substitute_name or attribute.print_name)
    if attribute.absolute:
        return target.removeprefix(_NT_PREFIX).rstrip("\0")
    return target.replace("\\", "/")


def interix_target(data: bytes) -> str:
    """Return the target in a file of ntfs-3g."""
    return data[len(INTERIX_MAGIC) :].decode("utf-16-le", errors="surrogatepass")


def names_a_drive(target: str) -> bool:
    """Tell whether a target leads to a drive of Windows or to another machine, so that Linux cannot follow it."""
    return bool(_DRIVE.match(target)) or target.startswith(("\\\\", "UNC\\", "Volume{"))


def inside_volume(target: str) -> str:
    """Return the target as a path in its volume: "C:\\\\Users" is /Users, as most links stay on their drive."""
    return target[2:].replace("\\", "/") if _DRIVE.match(target) else target
