# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that the engine accepts for new disks and new VMs.

Disks that an older engine created or imported may have other aliases; the engine refuses those for a new disk.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_ALIAS = 255
LONGEST_VM_NAME = 255
LONGEST_WINDOWS_NAME = 64

_ALIAS = re.compile(r"[A-Za-z0-9._-]{1,255}")
_NOT_OF_ALIASES = re.compile(r"[^A-Za-z0-9._-]")
#: The engine also accepts letters of other scripts in a VM's name. It refuses other characters itself.
_NOT_OF_VM_NAMES = re.compile(r"[\s\x00-\x1f\x7f]")


def is_alias(alias: str) -> bool:
    """Return whether the engine accepts the alias for a disk."""
    return _ALIAS.fullmatch(alias) is not None


def valid_alias(name: str, suffix: str = "") -> str:
    """Return an alias like `name` that the engine accepts, with `suffix` (a valid one) at its end.

    Accents are removed, other characters become "_", and what is too long is cut. The same name always gives the same
    alias.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    alias = _NOT_OF_ALIASES.sub("_", plain) or "disk"
    return alias[: LONGEST_ALIAS - len(suffix)] + suffix


def why_not_vm_name(name: str, *, windows: bool) -> str | None:
    """Return why the engine refuses the name for a new VM, None if pitr knows no reason."""
    longest = LONGEST_WINDOWS_NAME if windows else LONGEST_VM_NAME
    if not name:
        return "it is empty"
    if _NOT_OF_VM_NAMES.search(name):
        return "it contains a blank"
    if len(name) > longest:
        return (
            f"it has {len(name)} characters, and {'a Windows VM' if windows else 'a VM'} can have {longest}"
        )
    return None
