# SPDX-License-Identifier: GPL-2.0-or-later
"""Signs in the text of a console or a screen that a guest has failed to boot."""

from __future__ import annotations

import re
from typing import Final

#: After these the boot has failed, whatever follows.
_FATAL: Final = re.compile(
    r"""
    Kernel\ panic\ -\ not\ syncing
    | No\ bootable\ device
    | BdsDxe:\ No\ bootable\ option\ or\ device
    | grub\ rescue>
    | Missing\ operating\ system
    | Operating\ system\ not\ found
    | Error\ loading\ operating\ system
    | Invalid\ partition\ table
    | (?:BOOTMGR|NTLDR)\ is\ missing
    | ^Boot\ error
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
#: A guest whose screen no longer changes is lost if one of these is in its last lines.
_RESCUE: Final = re.compile(
    r"""
    ^grub>\s*\Z
    | \(initramfs\)\s*\Z
    | ^dracut:/[^\n]*\#\s*\Z
    | emergency\ mode
    | rescue\ mode
    | Give\ root\ password\ for\ maintenance
    | Press\ Enter\ for\ maintenance
    | the\ root\ account\ is\ locked
    | ^Shell>\s*\Z
    | ^boot:\s*\Z
    | Could\ not\ find\ kernel\ image
    """,
    re.VERBOSE | re.MULTILINE,
)
_LAST_LINES: Final = 6
#: A boot loader that runs says something more.
_STARTED: Final = re.compile(r"^Booting from Hard Disk[^\n]*\s*\Z", re.MULTILINE)


def fatal(text: str) -> str | None:
    """Return the line that says that the boot has failed; None if there is none."""
    return _line(_FATAL, text)


def rescue(text: str) -> str | None:
    """Return the line of a prompt for rescue or of a boot loader that waits; None if there is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    return _line(_RESCUE, "\n".join(lines[-_LAST_LINES:]))


def only_bios(text: str) -> str | None:
    """Return the last line on a screen if it is that of a BIOS that has started a boot loader; else None."""
    return _line(_STARTED, text)


def _line(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    if match is None:
        return None
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return text[start : end if end >= 0 else None].strip()[:200]
