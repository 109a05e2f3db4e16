# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the UEFI firmware that is installed beside qemu, from the descriptions that qemu defines for this.

(qemu: docs/interop/firmware.json)
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pitr.errors import ProgramMissing

#: Descriptions in the first folder replace those with the same name in the second one.
_FOLDERS: Final = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
#: Features that a firmware for any guest must not have, or whose needs pitr does not meet.
_UNWANTED: Final = frozenset({"enrolled-keys", "amd-sev-es", "amd-sev-snp", "intel-tdx"})
_NEEDS_SMM: Final = "requires-smm"
_MACHINE: Final = "pc-q35-9.9"


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI firmware in two flash chips: its code, and a template of the variables that a guest can change."""

    code: Path
    code_format: str
    variables: Path
    variables_format: str
    needs_smm: bool


def find_uefi() -> Firmware:
    """Return installed UEFI firmware, preferably without Secure Boot. Raises ProgramMissing."""
    named = {path.name: path for folder in reversed(_FOLDERS) for path in folder.glob("*.json")}
    suitable = [
        firmware
        for name in sorted(named)
        for firmware in _described(named[name])
        if firmware.code.is_file() and firmware.variables.is_file()
    ]
    if not suitable:
        raise ProgramMissing(
            "the VM boots with UEFI, but no UEFI firmware for qemu is installed",
            "On Debian: apt-get install ovmf. On Enterprise Linux: dnf install edk2-ovmf",
        )
    return min(suitable, key=lambda firmware: firmware.needs_smm)


def _described(path: Path) -> Iterator[Firmware]:
    with suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        document: dict[str, Any] = orjson.loads(path.read_bytes())
        mapping = document["mapping"]
        features = set(document.get("features", ()))
        machines = [
            pattern
            for target in document["targets"]
            if target["architecture"] == "x86_64"
            for pattern in target["machines"]
        ]
        if (
            "uefi" in document["interface-types"]
            and mapping["device"] == "flash"
            # "stateless" firmware has no variables.
            and mapping.get("mode", "split") == "split"
            and not features & _UNWANTED
            and any(fnmatch.fnmatch(_MACHINE, pattern) for pattern in machines)
        ):
            code, variables = mapping["executable"], mapping["nvram-template"]
            yield Firmware(
                Path(code["filename"]),
                code.get("format", "raw"),
                Path(variables["filename"]),
                variables.get("format", "raw"),
                _NEEDS_SMM in features,
            )
