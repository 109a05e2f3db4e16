# SPDX-License-Identifier: GPL-2.0-or-later
"""The refusal of the engine to attach disks whose data is complete. The disks stay, and pitr says how to go on."""

from __future__ import annotations

from collections.abc import Mapping

from pitr.errors import EngineError, PitrError
from pitr.text import named


class NotAttached(EngineError):
    """The engine refused to attach restored disks. The data is complete, and the disks stay."""


def not_attached(refusal: PitrError, vm: str, disks: Mapping[str, str]) -> NotAttached:
    """Return the error for a `refusal` to attach `disks` (names by ids) to the VM `vm` (its id)."""
    listed = ", ".join(named(name, disk_id) for disk_id, name in disks.items())
    one = len(disks) == 1
    refused = refusal.message.rstrip(".")
    return NotAttached(
        f"{refused}. The data is restored, and {'this new disk stays' if one else 'these new disks stay'} on "
        f"the engine, but {'is' if one else 'are'} not attached: {listed}",
        f"{refusal.advice} Then attach {'it' if one else 'them'} to VM {vm}: in the Administration Portal under "
        "Compute > Virtual Machines > the VM > Disks > Attach, or with a POST of "
        f'<disk_attachment><disk id="{next(iter(disks))}"/>…</disk_attachment> to /vms/{vm}/diskattachments. Delete '
        f"{'it' if one else 'them'} if you do not need {'it' if one else 'them'}.".strip(),
    )
