# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demo found out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo. Sizes are bytes, None where the step has none; `seconds` is wall time.

    `disk_bytes` is what the VM's disks held as data when the step began.
    """

    name: str
    command: str
    disk_bytes: int
    stored_bytes: int | None
    uploaded_bytes: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that had to be so, and whether it was."""

    what: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The demo's outcome. `replayed_bytes`: what a restore would upload that replays each backup of the chain."""

    steps: tuple[Step, ...]
    proofs: tuple[Proof, ...]
    replayed_bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        return all(proof.ok for proof in self.proofs)
