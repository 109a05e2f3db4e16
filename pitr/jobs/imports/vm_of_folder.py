# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM that a folder of backups belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: A domain's configuration has some kilobytes; its name and id are at its beginning.
_MOST: Final = 1 << 20
_NAME: Final = re.compile(r"<name>([^<]{1,255})</name>")
_UUID: Final = re.compile(r"<uuid>([0-9a-fA-F-]{36})</uuid>")


def vm_of_folder(folder: Path) -> Mapping[str, str]:
    """Return "vm-name" and, if it is known, "vm-id" of the VM whose backups are in `folder`.

    The newest vmconfig*.xml of virtnbdbackup decides, then the name of its *.cpt file, else the folder's name.
    """
    configurations = sorted(folder.glob("vmconfig*.xml"), key=_changed, reverse=True)
    for path in configurations:
        vm = _of_configuration(path)
        if vm:
            return vm
    names = sorted(path.name.removesuffix(".cpt") for path in folder.glob("*.cpt"))
    if len(names) == 1 and names[0]:
        return {"vm-name": names[0]}
    return {"vm-name": folder.absolute().resolve().name}


def _of_configuration(path: Path) -> dict[str, str]:
    """Return what libvirt's configuration of a domain says; nothing if it is not one."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST).decode(errors="replace")
    except OSError:
        return {}
    name, uuid = _NAME.search(text), _UUID.search(text)
    if name is None or "&" in name[1]:
        return {}
    vm = {"vm-name": name[1].strip()}
    return vm if uuid is None else {**vm, "vm-id": uuid[1].lower()}


def _changed(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name
